"""Turns pixel arrays into raw embeddings. ``registry`` lists the encoders; ``base`` defines an encoder."""
