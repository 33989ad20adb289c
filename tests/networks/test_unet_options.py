"""Options of the U-Net: invalid values are refused; attention levels are computed from resolutions."""

from __future__ import annotations

from typing import Any

import pytest

from fromnoise import registry
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
        ({"head_dim": 0}, "head_dim=0 is too small; use 1 or more"),
        ({"attention_resolutions": (0,)}, "attention_resolutions=(0,) must be positive"),
        ({"size": None}, "attention_resolutions=(8,) are in pixels of the images: give their size=(H, W)"),
        ({"attention_residual": "none"}, "attention_residual='none' is not known; use input or normalized"),
        ({"multipliers": ()}, "multipliers=() has no levels"),
        ({"multipliers": (1, 0)}, "multipliers=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"blocks_up": 0}, "blocks_up=0"),
        ({"patch": 0}, "patch=0"),
        ({"groups": 0}, "groups=0"),
        ({"width": 0}, "width=0"),
        ({"classes": -1}, "classes=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be positive and finite"),
        ({"norm_eps": float("nan")}, "norm_eps=nan must be positive and finite"),
        ({"time_dim": 3}, "time_dim=3"),
        ({"conditioning": "sum"}, "conditioning='sum' is not known; use add or scale-shift"),
        ({"upsampling": "bilinear"}, "use nearest or transposed or shuffle"),
        ({"init": "zeros"}, "use torch or variance-scaling"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    """The message names the option, its value and what is possible."""
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
def test_attention_levels(
    resolutions: tuple[int, ...],
    height: int,
    width: int,
    multipliers: tuple[int, ...],
    patch: int,
    levels: tuple[int, ...],
) -> None:
    """ID#131: resolution 16 selects the level of about 16 pixels at any image size."""
    assert attention_levels(resolutions, height, width, multipliers, patch) == levels


def test_resolutions_must_be_positive() -> None:
    """A resolution of 0 is refused."""
    with pytest.raises(ValueError, match="positive"):
        attention_levels((0,), 32, 32, (1, 2))


@pytest.mark.parametrize(("size", "expected"), [((32, 32), (1,)), ((64, 64), (2,)), ((8, 8), ())])
def test_attention_resolutions_need_the_size(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    """The levels with attention follow from the size; without resolutions no size is needed."""
    options: dict[str, Any] = {"width": 8, "multipliers": (1, 1, 1), "blocks": 1, "groups": 4}
    net = UNet(3, 3, size=size, attention_resolutions=(16,), **options)
    found = [any("attentions" in name for name, _ in level.named_parameters()) for level in net.down]
    assert tuple(i for i, has_attention in enumerate(found) if has_attention) == expected
    UNet(3, 3, attention_resolutions=(), **options)


@pytest.mark.parametrize(("width", "heads"), [(8, [1, 1, 1]), (32, [1, 2, 3]), (64, [2, 4, 6]), (20, [1, 2, 2])])
def test_heads_of_at_most_a_number_of_channels(width: int, heads: list[int]) -> None:
    """Widths that 32 does not divide have the largest divisor of their channels below."""
    options = {
        "multipliers": (1, 2, 3),
        "groups": 1,
        "blocks": 1,
        "size": (16, 16),
        "attention_resolutions": (16, 8, 4),
    }
    net = UNet(1, 1, width=width, head_dim=32, **options)
    assert [level.attentions[0].heads for level in net.down] == heads


def test_options_and_context() -> None:
    """Every option of a registered network has a type, a default and a help text; the rest is supplied."""
    assert registry.names("network")
    for name in registry.names("network"):
        for option in registry.options("network", name).values():
            assert option.default is not registry.REQUIRED and option.help, (name, option.name)
        assert set(registry.context("network", name)) >= {"in_channels", "out_channels", "classes", "attributes"}
