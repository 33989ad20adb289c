"""The general U-Net as a UNet2DModel: the same function, weights rearranged.

A U-Net with fewer blocks on the way up than UNet2DModel has gets further ones that return their input: second
convolution 0, shortcut [I 0] on the input and the skip connection; attention with output 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fromnoise.config.component import ComponentConfig
from fromnoise.networks.layers import Attention
from fromnoise.networks.unet import UNet
from fromnoise.utils.errors import UserError

_RESIDUAL = {"norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}


def unet2d_config(network: UNet, options: ComponentConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the UNet2DModel that computes the same function, but for the sizes and the classes.

    Args:
        network: the U-Net.
        options: of the recipe, from which it was built.

    Returns:
        Options of the UNet2DModel, and those of ``diffusers_files/fromnoise_network.py`` where it is not enough.

    Raises:
        UserError: there is none; the message says why.
    """
    o: Any = options
    blocks_up = o.blocks + 1 if o.blocks_up is None else o.blocks_up
    attentions = [m for m in network.modules() if isinstance(m, Attention)]
    one_head = all(m.heads == 1 for m in attentions)
    head_dims = {m.qkv.in_features // m.heads for m in attentions}
    impossible = {
        f"network.multipliers = {list(o.multipliers)}: its first convolution has the channels of the finest level": (
            o.multipliers[0] != 1
        ),
        "network.positions: it has no embedding of the pixel coordinates": o.positions,
        f"network.upsampling = {o.upsampling}: it has nearest neighbour alone": o.upsampling != "nearest",
        f"network.blocks_up = {blocks_up}: it has {o.blocks + 1} at most": blocks_up > o.blocks + 1,
        "attributes: it has classes alone": network.attributes is not None,
    }
    reason = next((text for text, true in impossible.items() if true), None)
    if reason is not None:
        raise UserError(f"diffusers' UNet2DModel cannot express {reason}")
    changes: dict[str, Any] = {}
    if o.patch > 1:
        changes["patch"] = o.patch
    if o.time_dim not in (None, o.width):
        changes["time_channels"] = o.time_dim
    if o.attention_residual == "normalized" and attentions:
        changes["normalized_residual"] = True
    if len(head_dims) > 1 and not one_head:
        changes["heads"] = {str(m.qkv.in_features): m.heads for m in attentions}
    hidden = network.time.upper.out_features
    attention = [isinstance(level.attentions[0], Attention) for level in network.down]  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    return {
        "block_out_channels": [o.width * m for m in o.multipliers],
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "layers_per_block": o.blocks,
        "add_attention": isinstance(network.middle[1], Attention),
        "attention_head_dim": None if one_head or "heads" in changes else min(head_dims),
        "norm_num_groups": o.groups,
        "attn_norm_num_groups": o.groups,
        "norm_eps": o.norm_eps,
        "dropout": o.dropout,
        "resnet_time_scale_shift": "scale_shift" if o.conditioning == "scale-shift" else "default",
        **({} if hidden == 4 * o.width else {"time_embedding_dim": hidden}),  # of diffusers 0.31 on
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
    }, changes


def unet2d_weights(network: UNet, blocks: int) -> dict[str, Tensor]:
    """The weights of that UNet2DModel.

    Args:
        network: the U-Net.
        blocks: residual blocks per level on the way down.
    """
    state = network.state_dict()
    out: dict[str, Tensor] = {}

    def copy(source: str, name: str) -> None:
        for part in ("weight", "bias"):
            out[f"{name}.{part}"] = state[f"{source}.{part}"]

    def residual(source: str, name: str) -> None:
        for ours, theirs in _RESIDUAL.items():
            copy(f"{source}.{ours}", f"{name}.{theirs}")
        if f"{source}.shortcut.weight" in state:
            copy(f"{source}.shortcut", f"{name}.conv_shortcut")

    def attention(source: str, name: str) -> None:
        if f"{source}.qkv.weight" not in state:
            return
        copy(f"{source}.norm", f"{name}.group_norm")
        copy(f"{source}.out", f"{name}.to_out.0")
        for part in ("weight", "bias"):
            for key, rows in zip("qkv", state[f"{source}.qkv.{part}"].chunk(3), strict=True):
                out[f"{name}.to_{key}.{part}"] = rows

    copy("stem", "conv_in")
    copy("time.lower", "time_embedding.linear_1")
    copy("time.upper", "time_embedding.linear_2")
    if "labels.weight" in state:
        out["class_embedding.weight"] = state["labels.weight"]
    levels = len(network.down)
    for level in range(levels):
        ins = state[f"down.{level}.blocks.0.norm1.weight"].shape[0]
        for way, index in (("down", level), ("up", levels - 1 - level)):
            source, name = f"{way}.{level}", f"{way}_blocks.{index}"
            count = len(getattr(network, way)[level].blocks)
            for j in range(count):
                residual(f"{source}.blocks.{j}", f"{name}.resnets.{j}")
                attention(f"{source}.attentions.{j}", f"{name}.attentions.{j}")
            if f"{source}.resample.conv.weight" in state:
                copy(f"{source}.resample.conv", f"{name}.{way}samplers.0.conv")
            for j in range(count, blocks + 1 if way == "up" else count):
                like = {key: out[f"{name}.resnets.0.{key}"] for key in ("conv2.weight", "time_emb_proj.weight")}
                skip = ins if j == blocks else like["conv2.weight"].shape[0]
                out |= {f"{name}.resnets.{j}.{key}": t for key, t in _identity_block(like, skip).items()}
                if f"{name}.attentions.0.to_q.weight" in out:
                    zeros = {k: torch.zeros_like(t) for k, t in out.items() if k.startswith(f"{name}.attentions.0.")}
                    out |= {k.replace(".attentions.0.", f".attentions.{j}."): t for k, t in zeros.items()}
    residual("middle.0", "mid_block.resnets.0")
    attention("middle.1", "mid_block.attentions.0")
    residual("middle.2", "mid_block.resnets.1")
    copy("norm", "conv_norm_out")
    copy("out", "conv_out")
    return out


def _identity_block(like: dict[str, Tensor], skip: int) -> dict[str, Tensor]:
    """A residual block that returns the first channels of its input and ignores the ``skip`` last."""
    conv, time = like["conv2.weight"], like["time_emb_proj.weight"]
    channels = conv.shape[0]
    shortcut = torch.eye(channels, channels + skip).to(conv)[:, :, None, None]
    zeros = {
        "norm1": (channels + skip,),
        "conv1.weight": (channels, channels + skip, 3, 3),
        "conv1.bias": (channels,),
        "time_emb_proj.weight": tuple(time.shape),
        "time_emb_proj.bias": (time.shape[0],),
        "norm2": (channels,),
        "conv2.weight": tuple(conv.shape),
        "conv2.bias": (channels,),
        "conv_shortcut.bias": (channels,),
    }
    out = {"conv_shortcut.weight": shortcut}
    for key, shape in zeros.items():
        names = [key] if "." in key else [f"{key}.weight", f"{key}.bias"]
        out |= {name: torch.zeros(shape).to(conv) for name in names}
    return out
