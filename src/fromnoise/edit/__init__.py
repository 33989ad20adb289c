"""A trained model used on pictures one has: fill in, continue, vary, restore."""

from fromnoise.edit.given import canvas, load_mask, load_picture
from fromnoise.edit.lost import Lost, colour, detail, sharpness
from fromnoise.edit.ways import Brush, restore, vary

__all__ = ["Brush", "Lost", "canvas", "colour", "detail", "load_mask", "load_picture", "restore", "sharpness", "vary"]
