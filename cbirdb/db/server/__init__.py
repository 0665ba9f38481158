"""The embedded server: how it starts and stops, what it runs as, and its settings on this machine."""
