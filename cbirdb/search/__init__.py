"""Find the images most similar to an image, a file or a vector, and draw them as a contact sheet."""

from cbirdb.search.similar_images import NO_FILTERS, Filters, search_by_file, search_by_image, search_by_vector

__all__ = ["NO_FILTERS", "Filters", "search_by_file", "search_by_image", "search_by_vector"]
