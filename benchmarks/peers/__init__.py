"""The entries of the league: each library in its own words, with the settings of its authors' examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peers.azula import azula
from peers.common import Budget, Task, Trained
from peers.diffusers import diffusers_course, diffusers_example
from peers.fromnoise import fast
from peers.lucidrains import lucidrains
from peers.smalldiffusion import smalldiffusion
from peers.torchcfm import torchcfm

Train = Callable[[Task, Budget, bool], Trained]


@dataclass(frozen=True)
class Entry:
    """A way to train with a library.

    Attributes:
        library: as on PyPI.
        train: its training.
        bf16: autocast to bfloat16, where the library's own code offers it.
        data: the data sets that it has settings for; all if empty.
    """

    library: str
    train: Train
    bf16: bool
    data: tuple[str, ...] = ()


_dit = partial(smalldiffusion, network="dit")

ENTRIES = {
    "fromnoise": Entry("fromnoise", fast, True),
    "diffusers-course-bf16": Entry("diffusers", diffusers_course, True),
    "denoising-diffusion-pytorch-bf16": Entry("denoising-diffusion-pytorch", lucidrains, True),
    "smalldiffusion-unet-bf16": Entry("smalldiffusion", smalldiffusion, True),
    "azula": Entry("azula", azula, False),
    "torchcfm": Entry("torchcfm", torchcfm, False),
    "smalldiffusion-dit-bf16": Entry("smalldiffusion", _dit, True, ("fashion_mnist",)),
    "diffusers-course": Entry("diffusers", diffusers_course, False),
    "smalldiffusion-unet": Entry("smalldiffusion", smalldiffusion, False),
    "denoising-diffusion-pytorch": Entry("denoising-diffusion-pytorch", lucidrains, False),
    "smalldiffusion-dit": Entry("smalldiffusion", _dit, False, ("fashion_mnist",)),
    "diffusers-example-bf16": Entry("diffusers", diffusers_example, True),
    "diffusers-example": Entry("diffusers", diffusers_example, False),
    "torchcfm-cifar10-example": Entry("torchcfm", partial(torchcfm, network="cifar"), False, ("cifar10",)),
}
"""By name, those first that a first look should run."""
