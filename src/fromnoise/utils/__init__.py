"""Errors, files and devices: what every other package may import."""
