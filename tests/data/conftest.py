"""Fixtures of the tests of data: no network, an empty cache, small random images."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Writer = Callable[..., list[np.ndarray]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FROMNOISE_DATA", raising=False)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def lines() -> list[str]:
    """Lines of a log; pass ``lines.append`` as ``log``."""
    return []


@pytest.fixture
def write() -> Writer:
    """``write(folder, names, height, width, channels)`` writes random images and returns their arrays."""

    def writer(folder: Path, names: list[str], height: int = 6, width: int = 6, channels: int = 3) -> list[np.ndarray]:
        rng = np.random.default_rng(zlib.crc32(repr((names, height, width, channels)).encode()))
        arrays = []
        for name in names:
            shape = (height, width) if channels == 1 else (height, width, channels)
            array = rng.integers(0, 256, shape, dtype=np.uint8)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
            arrays.append(array)
        return arrays

    return writer
