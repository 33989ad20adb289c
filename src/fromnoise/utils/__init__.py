"""Errors, files and devices, which every other package can import."""
