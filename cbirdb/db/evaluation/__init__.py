"""Reads and stores an evaluation: its run, its images, and their neighbours."""
