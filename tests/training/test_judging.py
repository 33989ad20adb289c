"""A run that judges itself keeps the weights of the least distance, also when it goes on."""

from __future__ import annotations

import json
import subprocess

import pytest

from fromnoise import checkpoint


def judged(folder) -> dict[int, dict]:
    """Numbers by step."""
    lines = map(json.loads, (folder / "reports.jsonl").read_text().splitlines())
    return {line["step"]: line["judged"] for line in lines if "judged" in line}


@pytest.mark.slow
def test_the_best_weights_are_kept(run_command, tmp_path):
    """Four times in twelve steps; best.safetensors is of the step with the least distance and can be drawn from.

    Going on with more budget, it stays until a later one is better.
    """
    command, environment = run_command
    words = ["--judge.times", "4", "--judge.count", "100", "--judge.steps", "2", "--judge.features", "pixels"]

    def train(name: str, steps: str, *more: str) -> None:
        full = command(tmp_path / name, "--steps", steps, *words, *more)
        done = subprocess.run(full, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    train("whole", "12")
    found = judged(tmp_path / "whole")
    assert list(found) == [3, 6, 9, 12]
    for numbers in found.values():
        assert numbers["features"] == "pixels" and numbers["frechet"]["n"] == 100 and numbers["kernel"]["error"] > 0
    best = checkpoint.load_model(tmp_path / "whole" / "best.safetensors")
    least = min(found, key=lambda step: found[step]["frechet"]["value"])
    assert best.progress["step"] == least and best.progress["judged"] == found[least]
    train("whole", "16")  # more budget: the measure before still counts
    later = judged(tmp_path / "whole")
    assert checkpoint.load_model(tmp_path / "whole" / "best.safetensors").progress["step"] == min(
        later, key=lambda step: later[step]["frechet"]["value"]
    )
