"""From stored images and labels to what a network is trained on."""

from __future__ import annotations

from torch import Tensor

from fromnoise.data import to_float
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig


def to_inputs(
    pixels: Tensor, labels: Tensor | None, model: Model, compute: ComputeConfig
) -> tuple[Tensor, Tensor | None]:
    """Clean images in [-1, 1] on the network's device, and their condition.

    Args:
        pixels: uint8 (B, C, H, W).
        labels: classes (B,), attributes (B, A), or None.
        model: decides on the condition.
        compute: device and memory format.

    Returns:
        x0, float32 (B, C, H, W), and the labels or pseudo-labels, None for an unconditional model.
    """
    x0 = to_float(pixels.to(compute.device, non_blocking=True)).contiguous(memory_format=compute.memory_format)
    if model.denoiser.pseudo_labels is not None:
        return x0, model.denoiser.pseudo_labels.assign(x0)
    if not model.dataset_info.is_conditional or labels is None:
        return x0, None
    return x0, labels.to(compute.device, non_blocking=True)
