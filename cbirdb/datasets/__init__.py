"""Turns dataset files into image records. ``registry`` lists the readers; ``base`` defines a reader."""
