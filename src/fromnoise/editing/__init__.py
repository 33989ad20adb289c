"""A trained model used on pictures one has: fill in, continue, vary, restore."""

from fromnoise.editing.degradations import Degradation, colour, detail, sharpness
from fromnoise.editing.inputs import canvas, load_mask, load_picture
from fromnoise.editing.restoration import EditRun, restore, vary

__all__ = [
    "EditRun",
    "Degradation",
    "canvas",
    "colour",
    "detail",
    "load_mask",
    "load_picture",
    "restore",
    "sharpness",
    "vary",
]
