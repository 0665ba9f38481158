"""Runs the embedded server: start and stop, its user, and its settings on this machine."""
