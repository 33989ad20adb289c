"""The U-Net against diffusers' UNet2DModel: the same weights give the same output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor

from fromnoise.networks import UNet


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in any order of the tests."""
    torch.manual_seed(0)


def from_diffusers(theirs: UNet2DModel, ours: UNet) -> dict[str, Tensor]:
    """The weights of ``theirs`` under our names; each is used once."""
    state = dict(theirs.state_dict())
    out: dict[str, Tensor] = {}

    def take(name: str, source: str) -> None:
        for part in ("weight", "bias"):
            out[f"{name}.{part}"] = state.pop(f"{source}.{part}")

    def residual(name: str, source: str) -> None:
        parts = {
            "norm1": "norm1",
            "conv1": "conv1",
            "time": "time_emb_proj",
            "norm2": "norm2",
            "conv2": "conv2",
        }
        for part, theirs_part in parts.items():
            take(f"{name}.{part}", f"{source}.{theirs_part}")
        if f"{source}.conv_shortcut.weight" in state:
            take(f"{name}.shortcut", f"{source}.conv_shortcut")

    def attention(name: str, source: str) -> None:
        take(f"{name}.norm", f"{source}.group_norm")
        take(f"{name}.out", f"{source}.to_out.0")
        for part in ("weight", "bias"):
            out[f"{name}.qkv.{part}"] = torch.cat([state.pop(f"{source}.to_{x}.{part}") for x in "qkv"])

    take("stem", "conv_in")
    take("time.lower", "time_embedding.linear_1")
    take("time.upper", "time_embedding.linear_2")
    if ours.labels is not None:
        # diffusers has no row for "no class".
        out["labels.weight"] = torch.cat([ours.labels.weight[:1].detach(), state.pop("class_embedding.weight")])
    levels = len(ours.down)
    for way, level in (("down", lambda i: i), ("up", lambda i: levels - 1 - i)):
        for i in range(levels):
            name, source = f"{way}.{level(i)}", f"{way}_blocks.{i}"
            for j in range(len(getattr(theirs, f"{way}_blocks")[i].resnets)):
                residual(f"{name}.blocks.{j}", f"{source}.resnets.{j}")
                if f"{source}.attentions.{j}.to_q.weight" in state:
                    attention(f"{name}.attentions.{j}", f"{source}.attentions.{j}")
            if f"{source}.{way}samplers.0.conv.weight" in state:
                take(f"{name}.resample.conv", f"{source}.{way}samplers.0.conv")
    residual("middle.0", "mid_block.resnets.0")
    attention("middle.1", "mid_block.attentions.0")
    residual("middle.2", "mid_block.resnets.1")
    take("norm", "conv_norm_out")
    take("out", "conv_out")
    assert not state, state.keys()
    return out


def diffusers_net(
    width: int,
    multipliers: tuple[int, ...],
    attention: tuple[int, ...],
    **options: Any,  # noqa: ANN401
) -> UNet2DModel:
    """UNet2DModel with the configuration of google/ddpm-cifar10-32, the published conversion of Ho et al.'s network."""
    kinds = ["Attn" if level in attention else "" for level in range(len(multipliers))]
    torch.manual_seed(0)
    net = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(width * m for m in multipliers),
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        dropout=0.0,
        **options,
    ).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p), alpha=0.3)
    return net


def test_ho2020() -> None:
    """The CIFAR-10 network of Ho et al. 2020, 35.7 million parameters."""
    theirs = diffusers_net(128, (1, 2, 2, 2), (1,), layers_per_block=2, attention_head_dim=None, norm_num_groups=32)
    ours = UNet(3, 3, width=128, multipliers=(1, 2, 2, 2), size=(32, 32), groups=32, dropout=0.1).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.load_state_dict(from_diffusers(theirs, ours))
    x, step = torch.randn(2, 3, 32, 32), torch.tensor([0, 731])
    with torch.no_grad():
        expected = theirs(x, step).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x, step.float()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "theirs_options", "ours_options"),
    [
        # The levels of the Keras example, at a smaller width.
        (
            (16, (1, 2, 4, 8), (2, 3)),
            {"layers_per_block": 2, "attention_head_dim": None, "norm_num_groups": 8},
            {"blocks": 2, "groups": 8},
        ),
        # Scale and shift, classes, heads of a given size, one block per level.
        (
            (32, (1, 2), (0, 1)),
            {
                "layers_per_block": 1,
                "attention_head_dim": 8,
                "norm_num_groups": 4,
                "attn_norm_num_groups": 4,
                "resnet_time_scale_shift": "scale_shift",
                "num_class_embeds": 5,
            },
            {"blocks": 1, "groups": 4, "head_dim": 8, "conditioning": "scale-shift", "classes": 5},
        ),
    ],
)
def test_other_options(
    shape: tuple[int, tuple[int, ...], tuple[int, ...]],
    theirs_options: dict[str, Any],
    ours_options: dict[str, Any],
) -> None:
    """Other options, at an oblong size and a fractional timestep."""
    width, multipliers, attention = shape
    theirs = diffusers_net(width, multipliers, attention, **theirs_options)
    sides = tuple(64 // 2**level for level in attention)
    ours = UNet(
        3, 3, size=(64, 64), width=width, multipliers=multipliers, attention_resolutions=sides, **ours_options
    ).eval()
    ours.load_state_dict(from_diffusers(theirs, ours))
    x, t = torch.randn(2, 3, 16, 24), torch.tensor([3.5, 900.0])
    cond = torch.tensor([0, 4]) if ours.labels is not None else None
    with torch.no_grad():
        expected = theirs(x, t, class_labels=cond).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x, t, cond), expected, atol=1e-4, rtol=1e-4)
