"""Pixel arrays -> raw embeddings. ``registry`` lists the encoders, ``base`` says what one is."""
