"""Every line of docs/guide/migration.md runs: ours in all tables, theirs where their package is installed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fromnoise as fn
from foreign_packages import import_lucidrains
from fromnoise import cli

PAGE = (Path(__file__).parents[1] / "docs" / "guide" / "migration.md").read_text(encoding="utf-8")


def tables() -> dict[str, list[tuple[str, str]]]:
    """The rows of each library's table: what stands in code in the two columns, or nothing."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, text in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| `")]
        cells = [[re.match(r"`([^`]+)`|", cell) for cell in row] for row in rows]
        assert all(len(row) == 2 for row in cells), title
        found[title] = [(left.group(1) or "", right.group(1) or "") for left, right in cells]  # type: ignore[union-attr]
    return found


def common() -> dict[str, Any]:
    """What the page says before the tables."""
    torch.manual_seed(0)
    x0 = torch.rand(16, 1, 16, 16) * 2 - 1
    return {"torch": torch, "fn": fn, "x0": x0, "noise": torch.randn_like(x0), "t": torch.arange(0, 992, 62)}


def run(lines: Iterator[str] | list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Execute lines of Python, and lines of the command line."""
    for line in lines:
        if line.startswith("fromnoise "):
            assert cli.main(shlex.split(line)[1:]) == 0, line
        elif line:
            exec(compile(line, line, "exec"), names)
    return names


def small(line: str) -> str:
    """A line with a width that a test can afford."""
    return line.replace("width=32", "width=8, groups=4").replace("(32, 64)", "(8, 16), norm_num_groups=4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_five_tables() -> None:
    """And every cell of a first column is Python."""
    found = tables()
    assert list(found) == ["diffusers", "denoising-diffusion-pytorch", "smalldiffusion", "k-diffusion", "azula"]
    for rows in found.values():
        assert len(rows) >= 5
        for left, _ in rows:
            ast.parse(left)


def test_diffusers(folder: Path) -> None:
    """Both columns; noisy images, velocities and the imported model are the same."""
    import diffusers
    from diffusers.training_utils import EMAModel

    rows = [(small(left), small(right)) for left, right in tables()["diffusers"]]
    classes = {
        n: getattr(diffusers, n) for n in re.findall(r"\b\w+(?:Model|Scheduler|Pipeline)\b", PAGE) if n != "EMAModel"
    }
    theirs = run([left for left, _ in rows], classes | common() | {"EMAModel": EMAModel})
    ours = run([right for _, right in rows], common())
    torch.testing.assert_close(ours["x"], theirs["x"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["v"], theirs["v"], atol=1e-5, rtol=0)
    assert ours["images"].shape == (4, 1, 16, 16) and (folder / "ours.safetensors").exists()
    network, loaded = theirs["network"].eval(), ours["model"].model.denoiser.network
    with torch.no_grad():
        expected = network(theirs["x"], theirs["t"]).sample
        torch.testing.assert_close(loaded(theirs["x"], theirs["t"].float()), expected, atol=1e-5, rtol=0)


def test_lucidrains(folder: Path) -> None:
    """Both columns, but for their Trainer, which reads a folder by torchvision."""
    rows = tables()["denoising-diffusion-pytorch"]
    package = import_lucidrains()
    run([left for left, _ in rows if "rainer" not in left], vars(package) | common())
    ours = run([right for _, right in rows], common())
    assert ours["samples"].shape == (4, 1, 16, 16)
    assert fn.load("runs/theirs").model.schedule.steps == 20


@pytest.mark.parametrize("library", ["smalldiffusion", "k-diffusion", "azula"])
def test_ours(library: str, folder: Path) -> None:
    """Our column; the model is a trained one."""
    names = common()
    lines = ["network = fn.networks.UNet(1, 1, size=(16, 16), width=8, multipliers=(1, 2), groups=4)"]
    lines += ["model = fn.Trainer(fn.Denoiser(network, fn.schedules.linear(1000)), x0, batch=4, steps=1).run()"]
    run([*lines, *(small(right) for _, right in tables()[library])], names)
    assert names["x"].shape == (4, 1, 16, 16) and names["x"].dtype == torch.uint8
