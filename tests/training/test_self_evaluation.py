"""A run that evaluates itself keeps the weights with the lowest Frechet distance, also when it is resumed."""

from __future__ import annotations

import json

import pytest

from fromnoise import checkpoint


def evaluations(run) -> dict[int, dict]:
    """The evaluations in reports.jsonl by step."""
    lines = map(json.loads, (run / "reports.jsonl").read_text().splitlines())
    return {line["step"]: line["evaluation"] for line in lines if "evaluation" in line}


def best_step(found: dict[int, dict]) -> int:
    return min(found, key=lambda step: found[step]["frechet"]["value"])


@pytest.mark.slow
def test_best_weights_are_kept(fork_command, tmp_path):
    """Four evaluations in twelve steps; best.safetensors is of the best one and loads as a model.

    After a resume with more budget it is replaced only by a better one.
    """
    keys = {"times": "4", "samples": "100", "steps": "2", "features": "pixels"}
    words = [word for key, value in keys.items() for word in (f"--evaluation.{key}", value)]

    def train(steps: str) -> None:
        process = fork_command(tmp_path / "run", "--steps", steps, *words)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error

    train("12")
    found = evaluations(tmp_path / "run")
    assert list(found) == [3, 6, 9, 12]
    for result in found.values():
        assert result["features"] == "pixels" and result["frechet"]["n"] == 100 and result["kernel"]["error"] > 0
    best = checkpoint.load_model(tmp_path / "run" / "best.safetensors")
    assert best.progress["step"] == best_step(found)
    assert best.progress["evaluation"] == found[best_step(found)]
    train("16")
    best = checkpoint.load_model(tmp_path / "run" / "best.safetensors")
    assert best.progress["step"] == best_step(evaluations(tmp_path / "run"))
