"""Wrong inputs that a person would type: exit code 2, one line with the mistake and the remedy, nothing written."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from calling import call
from PIL import Image
from safetensors.torch import save_file
from wrong_inputs import AFTER_DATA, CASES, TOML

MOST = 300
"""Characters of a line, at most."""


def _image(path: str, height: int = 8, width: int = 8, channels: int = 1, value: int | None = None) -> None:
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.random.default_rng(len(path)).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory, run, told_run) -> Path:
    """A folder with the files that the command lines name."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(run, root / "run")
    shutil.copytree(told_run, root / "labeled")
    for name in ("empty", "texts", "pictures", "large", "full", "folder.png", "folder.toml", "diffusers/unet"):
        (root / name).mkdir(parents=True)
    for name in ("photo.png", "other.png", "mask.png", *(f"pictures/{i}.png" for i in range(12))):
        _image(str(root / name))
    _image(str(root / "color.png"), channels=3)
    for name in ("large.png", *(f"large/{i}.png" for i in range(12))):
        _image(str(root / name), 32, 48)
    _image(str(root / "black.png"), value=0)
    _image(str(root / "white.png"), value=255)
    (root / "cut.png").write_bytes((root / "photo.png").read_bytes()[:60])
    words = ("notes.txt", "taken.txt", "texts/a.txt", "texts/b.txt", "full/mine.txt", "renamed.png", "renamed.npz")
    for name in (*words, "renamed.zip", "words.parquet", "mine.yaml", "broken.py"):
        (root / name).write_text("some words\n")
    (root / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (root / "video.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    (root / "binary.toml").write_bytes(b"\xff\xfe\x00\x01 = 3")
    for name in ("empty.png", "empty.safetensors"):
        (root / name).touch()
    for name in ("weights.pt", "model.ckpt", "pytorch_model.bin"):
        torch.save({"w": torch.zeros(3)}, root / name)
    np.save(root / "strings.npy", np.array(["a", "b"]))
    (root / "truncated.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:5000])
    (root / "diffusers/model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (root / "diffusers/unet/config.json").write_text('{"_class_name": "UNet2DModel"}')
    save_file({"w": torch.zeros(3)}, root / "diffusers/unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    return root


def _files(root: Path) -> set[tuple[str, int, int]]:
    found: set[tuple[str, int, int]] = set()
    for folder, _, names in os.walk(root):
        found.add((folder, 0, 0))
        for name in names:
            status = os.stat(os.path.join(folder, name))
            found.add((os.path.join(folder, name), status.st_size, status.st_mtime_ns))
    return found


@pytest.fixture
def refused(place, monkeypatch) -> Callable[..., None]:
    """Call with wrong words, and check the answer."""
    monkeypatch.chdir(place)

    def caller(*words: str, required: tuple[str, ...], after_data: bool = False) -> None:
        before = _files(place)
        said = call(*words)
        lines = said.err.splitlines()
        if after_data and len(lines) == 2 and " held out (by seed " in lines[0]:
            del lines[0]
        assert said.code == 2 and len(lines) == 1, said
        assert lines[0].startswith("fromnoise") and len(lines[0]) <= MOST, lines[0]
        assert not [word for word in required if word not in lines[0]], lines[0]
        assert _files(place) == before

    return caller


@pytest.mark.parametrize("words", CASES)
def test_wrong_input(refused, words):
    """The line has the words that the list requires."""
    refused(*shlex.split(words), required=CASES[words], after_data=words in AFTER_DATA)


@pytest.mark.parametrize("text", TOML)
def test_wrong_recipe_file(refused, place, text):
    """The line has the file's name too."""
    (place / "mine.toml").write_text(text)
    refused("train", "mine.toml", required=("mine.toml", *TOML[text]))


def test_there_are_200():
    """Distinct command lines and files."""
    assert len(CASES) + len(TOML) >= 200
