"""Bounds on what one image file, and one search, may ask for."""

MAX_PIXELS = 100_000_000
"""Pictures with more are not decoded: a file of some kilobytes can ask for any amount of memory. Whole mammograms have
some 50 million."""
LARGEST_MAX_PIXELS = 178_956_970
"""Beyond it Pillow refuses by itself."""
IMAGE_TIMEOUT_S = 60.0
"""Seconds that reading, decoding and preparing one image may take."""
LARGEST_FILE = 2 << 30
"""Bytes. A picture of ``LARGEST_MAX_PIXELS`` takes 1.4 GB at 64 bits each and without compression; files are read whole."""
LARGEST_K = 10_000
"""Images that one search may ask for, as in ``cbir_internal.checked_count``, and that a run may keep per query."""
