"""Features in which images are compared."""
