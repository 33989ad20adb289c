"""Other libraries without the packages that they import for data, pictures and metrics, which the tests do not need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

MISSING = (
    "torchvision",
    "pytorch_fid",
    "gdown",
    "skimage",
    "cleanfid",
    "clip",
    "dctorch",
    "jsonmerge",
    "kornia",
    "torchdiffeq",
)
"""What the libraries import and the tests do without."""


class Empty(ModuleType):
    """A module in which every name is something that can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class Finder(MetaPathFinder, Loader):
    """Finds empty modules in place of those of ``MISSING``."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in MISSING else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


@contextmanager
def empty_modules() -> Iterator[None]:
    """Packages of ``MISSING`` that are not installed are empty modules, and gone afterwards."""
    finder, before = Finder(), set(sys.modules)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], Empty):
                del sys.modules[name]


def import_foreign(name: str) -> ModuleType:
    """A library; the test is skipped if it is not installed."""
    with empty_modules():
        return pytest.importorskip(name, exc_type=ImportError)


def import_lucidrains() -> ModuleType:
    """denoising-diffusion-pytorch."""
    return import_foreign("denoising_diffusion_pytorch")
