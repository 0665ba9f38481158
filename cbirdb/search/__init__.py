"""Finds the images most similar to an image or a file, and draws them as a contact sheet."""

from cbirdb.search.similar_images import NO_FILTERS, Filters, search_by_file, search_by_image

__all__ = ["NO_FILTERS", "Filters", "search_by_file", "search_by_image"]
