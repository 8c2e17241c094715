"""A table of semantic IDs to walk through, as one HTML page."""
