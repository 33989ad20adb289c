"""Labelled sets for the clustering benchmark, beside those that have a name: uneven classes, flowers and emoji.

SPECs: ``uneven:SET`` keeps fewer images of each next class, evenly in the log, so that the first has ten times as many
as the last; ``flowers`` has the five largest classes of Oxford Flowers 102, ``emoji`` four kinds of Noto emoji that
their code points tell (flags, clocks, faces, people), both of 64x64 pixels.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fromnoise.data import load

RATIO = 10.0
"""Images of the largest class in those of the smallest, of an uneven set."""
_FLOWERS = 5
_EMOJI = {
    "clock": r"u1f5(5[0-9a-f]|6[0-7])\.",
    "face": r"u1f6(0[0-9a-f]|1[0-9a-f]|2[0-9a-f]|3[0-7])\.",
    "animal": r"u1f4([0-2][0-9a-f]|3[0-3])\.",
    "food": r"u1f3(4[5-9a-f]|[56][0-9a-f]|7[0-9a-f])\.",
}


def spec_of(name: str, out: Path) -> str:
    """The data SPEC of a set of the benchmark; sets that are made here are written into ``out``."""
    if name.startswith("uneven:"):
        return _uneven(name.removeprefix("uneven:"), out)
    if name == "flowers":
        return _flowers(out)
    return _emoji(out) if name == "emoji" else name


def _uneven(spec: str, out: Path) -> str:
    path = out / f"uneven-{Path(spec).stem}.npz"
    if not path.exists():
        data = load(spec, log=lambda line: None)
        labels = data.train.labels
        assert labels is not None
        classes, kept = int(labels.max()) + 1, []
        for c in range(classes):
            members = (labels == c).nonzero().flatten()
            kept.append(members[: max(1, round(len(members) * RATIO ** (-c / (classes - 1))))])
        chosen = torch.cat(kept)
        _write(path, data.train.get(chosen).numpy(), labels[chosen].numpy())
    return str(path)


def _flowers(out: Path) -> str:
    path = out / "flowers.npz"
    if not path.exists():
        members = _images("flowers102_64.zip")
        label = {name: name.split("/")[-2] for name in members}
        classes = [name for name, _ in Counter(label.values()).most_common(_FLOWERS)]
        chosen = [name for name in members if label[name] in classes]
        _write_images(path, members, {name: classes.index(label[name]) for name in chosen})
    return str(path)


def _emoji(out: Path) -> str:
    path = out / "emoji.npz"
    if not path.exists():
        members = _images("emoji_64.zip")
        kinds = {
            name: kind
            for name in members
            for kind, pattern in enumerate(_EMOJI.values())
            if re.search(pattern, name.lower())
        }
        _write_images(path, members, kinds)
    return str(path)


def _images(archive: str) -> dict[str, zipfile.ZipFile]:
    """The pictures of an archive of the data folder, in order, each with the open archive."""
    opened = zipfile.ZipFile(Path(os.environ["FROMNOISE_DATA"]) / archive)
    return {name: opened for name in sorted(opened.namelist()) if name.lower().endswith((".png", ".jpg"))}


def _write_images(path: Path, members: dict[str, zipfile.ZipFile], labels: dict[str, int]) -> None:
    pixels = [np.asarray(Image.open(BytesIO(members[name].read(name))).convert("RGB")) for name in labels]
    _write(path, np.stack(pixels), np.array(list(labels.values())))


def _write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels)
