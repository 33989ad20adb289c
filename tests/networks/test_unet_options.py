"""Options of the U-Net: mistakes are named, attention is found by resolution."""

from __future__ import annotations

from typing import Any

import pytest

from fromnoise.networks import UNet, attention_levels

SMALL: dict[str, Any] = {
    "size": (16, 16),
    "width": 8,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "groups": 4,
    "attention_resolutions": (8,),
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100, "groups": 32}, "groups=32 must divide width=100; the nearest that does is 25"),
        ({"heads": 3}, "heads=3 must divide channels of the attention=16; the nearest that does is 2"),
        ({"head_dim": 32}, "head_dim=32 must divide channels of the attention=16; the nearest that does is 16"),
        ({"attention_resolutions": (0,)}, "attention_resolutions=(0,) must be positive"),
        ({"size": None}, "attention_resolutions=(8,) are in pixels of the images: give their size=(H, W)"),
        ({"attention_residual": "none"}, "attention_residual='none' is not known; use input or normalized"),
        ({"multipliers": ()}, "levels=0"),
        ({"multipliers": (1, 0)}, "multipliers=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"blocks_up": 0}, "blocks_up=0"),
        ({"patch": 0}, "patch=0"),
        ({"groups": 0}, "groups=0"),
        ({"width": 0}, "width=0"),
        ({"classes": -1}, "classes=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"time_dim": 3}, "time_dim=3"),
        ({"conditioning": "sum"}, "conditioning='sum' is not known; use add or scale-shift"),
        ({"upsampling": "bilinear"}, "use nearest or transposed or shuffle"),
        ({"init": "zeros"}, "use torch or variance-scaling"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """Each mistake says what and names the mend."""
    with pytest.raises(ValueError) as error:
        UNet(3, 3, **(SMALL | options))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("resolutions", "height", "width", "multipliers", "patch", "levels"),
    [
        ((16,), 32, 32, (1, 2, 2, 2), 1, (1,)),  # Ho et al. 2020, CIFAR-10
        ((16,), 256, 256, (1, 1, 2, 2, 4, 4), 1, (4,)),  # and LSUN
        ((16, 8), 64, 64, (1, 2, 4, 8), 1, (2, 3)),  # Keras, flowers
        ((16,), 28, 28, (1, 2, 2), 1, (1,)),
        ((14,), 28, 28, (1, 2, 2), 1, (1,)),
        ((16,), 100, 100, (1, 2, 4, 8), 1, (3,)),
        ((16,), 64, 64, (1, 2, 4), 2, (1,)),
        ((16,), 64, 16, (1, 2, 4), 1, (1,)),
        ((16, 17), 32, 32, (1, 2), 1, (1,)),
        ((16,), 8, 8, (1, 2), 1, ()),
        ((), 32, 32, (1, 2), 1, ()),
    ],
)
def test_attention_is_found_by_resolution(
    resolutions: tuple[int, ...],
    height: int,
    width: int,
    multipliers: tuple[int, ...],
    patch: int,
    levels: tuple[int, ...],
) -> None:
    """ID#131: "16" means the level of about 16 pixels, whatever the size."""
    assert attention_levels(resolutions, height, width, multipliers, patch) == levels


def test_resolutions_must_be_positive() -> None:
    """A resolution of 0 is a mistake."""
    with pytest.raises(ValueError, match="positive"):
        attention_levels((0,), 32, 32, (1, 2))
