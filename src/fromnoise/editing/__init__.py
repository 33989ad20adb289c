"""Image editing with a trained model: inpainting, outpainting, restoration, SDEdit and interpolation."""

from fromnoise.editing.degradations import Degradation, colorization, deblurring, super_resolution
from fromnoise.editing.edit_config import EditConfig
from fromnoise.editing.inputs import load_image, load_mask, place_on_canvas
from fromnoise.editing.interpolation import interpolate, shared_latents, slerp
from fromnoise.editing.restoration import restore
from fromnoise.editing.sdedit import vary

__all__ = [
    "Degradation",
    "EditConfig",
    "colorization",
    "deblurring",
    "interpolate",
    "load_image",
    "load_mask",
    "place_on_canvas",
    "restore",
    "shared_latents",
    "slerp",
    "super_resolution",
    "vary",
]
