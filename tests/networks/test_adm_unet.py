"""Network adm: parameter counts of published models, conditions, sizes, and options that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fromnoise.networks import ADMUNet

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "heads": 2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # ADM of ImageNet 64x64, class-conditional, learned variance (Dhariwal and Nichol 2021: 296 million)
        ({"out_channels": 6, "classes": 1000, "width": 192, "blocks": 3, "head_dim": 64, "resample_blocks": True}, 296),
        # DDPM++ of CIFAR-10 in EDM (Karras et al. 2022, table 7: 56 million)
        (
            {
                "out_channels": 3,
                "multipliers": (2, 2, 2),
                "blocks": 4,
                "stem_width": 128,
                "attention": (False, True, False),
                "attention_up": "last",
                "heads": 1,
                "conditioning": "add",
                "resample_blocks": True,
                "resample_projection": True,
            },
            56,
        ),
    ],
    ids=["ADM", "DDPM++"],
)
def test_published_sizes(options: dict[str, Any], expected: int) -> None:
    """In millions of parameters."""
    with torch.device("meta"):
        network = ADMUNet(3, **options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == expected


@torch.inference_mode()
def test_conditions_and_sizes() -> None:
    """Classes before and after the time embedding, a row for no class, attributes; sides that two do not divide."""
    torch.manual_seed(0)
    x, t = torch.randn(2, 1, 7, 9), torch.tensor([3.0, 800.0])
    for position in ("input", "output"):
        network = ADMUNet(1, 1, classes=3, null_class=3, class_position=position, zero_output=False, **SMALL).eval()
        plain, none = network(x, t), network(x, t, torch.tensor([-1, 2]))
        assert plain.shape == x.shape
        torch.testing.assert_close(none[0], plain[0], atol=1e-5, rtol=0)
        assert not torch.allclose(none[1], plain[1])
    with pytest.raises(ValueError, match="no embedding for no class"):
        ADMUNet(1, 1, classes=3, **SMALL)(x, t)
    with pytest.raises(ValueError, match="unconditional"):
        ADMUNet(1, 1, **SMALL)(x, t, torch.tensor([0, 1]))
    network = ADMUNet(1, 1, attributes=[(0.0, 1.0)], class_position="input", zero_output=False, **SMALL).eval()
    assert not torch.allclose(network(x, t, torch.tensor([[5.0], [-5.0]])), network(x, t))
    assert float(ADMUNet(1, 1, **SMALL)(x, t).abs().max()) == 0  # the output begins at zero, as published


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": ()}, "multipliers"),
        ({"attention": (True,)}, "one entry per level"),
        ({"heads": 3}, "heads=3 must divide"),
        ({"head_dim": 32}, "attention_head_dim=32"),
        ({"heads_up": 0}, "heads_up=0"),
        ({"null_class": 1}, "null_class=1"),
        ({"residual_scale": 0.0}, "residual_scale"),
        ({"freq_shift": 4}, "freq_shift=4"),
        ({"groups": 3}, "group"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match=message):
        ADMUNet(1, 1, **SMALL | options)
