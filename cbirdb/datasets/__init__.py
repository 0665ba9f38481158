"""Dataset files -> image records. ``registry`` lists the readers, ``base`` says what one is."""
