"""Tiny models of diffusers with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def random_unet(**options: Any) -> UNet2DModel:
    """A UNet2DModel of 8x8 images, every weight random, also those of the normalizations."""
    torch.manual_seed(0)
    unet = UNet2DModel(**(SMALL | options)).eval()
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return unet


def save_folder(folder: Path, unet: UNet2DModel, scheduler: Any) -> Path:
    """Save what DDPMPipeline saves, file by file, which is faster."""
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **parts}))
    return folder
