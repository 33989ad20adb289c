"""Other libraries for tests, which are skipped where these are not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from foreign import empty_modules


def import_foreign(name: str) -> ModuleType:
    """A library; the test is skipped if it is not installed."""
    with empty_modules():
        return pytest.importorskip(name, exc_type=ImportError)


def import_lucidrains() -> ModuleType:
    """denoising-diffusion-pytorch."""
    return import_foreign("denoising_diffusion_pytorch")
