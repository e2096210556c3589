"""Define stages, and record what their results were made from."""
