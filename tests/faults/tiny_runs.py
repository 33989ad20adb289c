"""Tiny recipes, reports and states."""

from __future__ import annotations

import contextlib

import torch

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.run_dir import RunDir

TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention_resolutions": [],
    "network.groups": 4,
    "network.middle_attention": False,
}


def recipe(**values):
    """A tiny recipe."""
    return recipes.load("digits", TINY | {key.replace("__", "."): value for key, value in values.items()})


def report(step: int, **values) -> dict:
    """A report as training writes it."""
    plain = {"step": step, "images": 8 * step, "dropped_steps": 0, "loss": 0.5, "timing": {"seconds": 1.5}}
    return plain | values


def save_state(run: RunDir, step: int, values) -> None:
    """Write a state with a recipe."""
    header = checkpoint.model_header(values, DatasetInfo((1, 8, 8), None, "abc"))
    run.save_state(step, {"w": torch.zeros(3)}, {"kind": "state", "progress": {"step": step}} | header)


def open_run(tmp_path):
    """An open run directory with two states; its notices are in ``run.notices``."""
    notices: list[str] = []
    run = RunDir(tmp_path / "run", notices.append)
    run.notices = notices  # pyright: ignore[reportAttributeAccessIssue]
    with contextlib.closing(run):
        run.open(recipe())
        save_state(run, 1, recipe())
        save_state(run, 2, recipe())
        yield run
