"""Bounds the work that one image file, or one search, may cause."""

MAX_PIXELS = 100_000_000
"""Largest number of pixels that is decoded: a file of a few kilobytes can ask for any amount of memory. Whole
mammograms have about 50 million.
"""
LARGEST_MAX_PIXELS = 178_956_970
"""Largest value of ``--max-pixels``: Pillow refuses larger pictures by itself."""
IMAGE_TIMEOUT_S = 60.0
"""Seconds that reading, decoding and preparing one image may take."""
LARGEST_FILE = 2 << 30
"""Bytes of the largest file that is read. All but large DICOM files are read whole. A picture of ``LARGEST_MAX_PIXELS`` takes 1.4 GB at 64
bits a pixel without compression.
"""
LARGEST_HELD = 512 << 20
"""Bytes of DICOM that are held in memory: of a zip's member, of an inflated data set with the file that it is in. Of a
larger file only the wanted frame is read, so that no frame takes more than 2 GB together with its file.
"""
LARGEST_K = 10_000
"""Most images that one search may return, as in ``cbir_internal.checked_count``, and that a run may store per query."""
