"""What the tests of the command line share: a way to call it, a tiny run, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from calling import SMALL, Call, Said, call, tree
from PIL import Image

from fromnoise.clustering import summary
from fromnoise.reporting import image_io, plots

BLANK = Image.new("RGB", (8, 8))


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """Every call is made in a folder of its own, without the user's data and caches.

    Curves take longer than these runs: only those of the session and of modules, which are made before, have them.
    """
    monkeypatch.setattr(plots, "loss_plot", lambda reports, path: None)
    monkeypatch.setattr(summary, "objective_plot", lambda rounds, path: image_io.save(BLANK, path))
    monkeypatch.setattr(summary, "_map", lambda *args: BLANK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FROMNOISE_DATA", raising=False)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "no-cache"))


@pytest.fixture
def fromnoise() -> Call:
    """``fromnoise("sample", run, "-n", 3)`` -> exit code and output."""
    return call


@pytest.fixture
def right() -> Callable[..., Said]:
    """The same for a call that must succeed."""

    def caller(*words: object) -> Said:
        said = call(*words)
        assert said.code == 0 and "Traceback" not in said.err, said.err
        return said

    return caller


@pytest.fixture
def wrong(tmp_path) -> Callable[..., str]:
    """The same for a mistake: code 2, one line that has every ``message`` in it, and not a file touched.

    ``notes``: lines about the data may come before it. ``touched``: files may change.
    """

    def caller(*words: object, message: tuple[str, ...] | str = (), notes: bool = False, touched: bool = False) -> str:
        before = tree(tmp_path)
        said = call(*words)
        lines = said.err.splitlines()
        assert said.code == 2, said
        assert lines and (notes or len(lines) == 1), said.err
        assert lines[-1].startswith("fromnoise") and "Traceback" not in said.err
        assert all(t in lines[-1] for t in ((message,) if isinstance(message, str) else message)), lines[-1]
        assert len(lines[-1]) < 400
        assert touched or tree(tmp_path) == before
        return lines[-1]

    return caller


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Flags that make any recipe's network tiny and its run short."""
    return SMALL


def _trained(folder: Path, *words: str) -> Path:
    said = call("train", "digits", "--steps", "3", "--out", folder / "run", *SMALL, *words)
    assert said.code == 0, said.err
    return folder / "run"


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run directory of three steps on the digits. Not to be written to."""
    return _trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def told_run(tmp_path_factory) -> Path:
    """The same, conditional on the class. Not to be written to."""
    return _trained(tmp_path_factory.mktemp("message"), "--data.labels", "true")


@pytest.fixture
def paint() -> Callable[..., None]:
    """Write pictures of noise: ``paint(folder, names, height, width, channels)``."""

    def painter(folder: Path, names: list[str], height: int = 8, width: int = 8, channels: int = 3) -> None:
        rng = np.random.default_rng(len(names) + height + width)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shape = (height, width) if channels == 1 else (height, width, channels)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)

    return painter
