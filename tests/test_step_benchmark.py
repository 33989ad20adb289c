"""The processes in which ``benchmarks/step.py`` runs the source of other checkouts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from step_process import StepProcess  # noqa: E402


@pytest.mark.long
def test_a_process_runs_the_source_of_its_checkout(tmp_path):
    """A copy of the source elsewhere is what is imported, and steps are taken when they are asked for."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    process = StepProcess(tmp_path, ["--precisions", "fp32", "--batch", "1", "--device", "cpu"])
    assert process.source == tmp_path.resolve() / "src" / "fromnoise"
    assert process.parameters > 5_000_000
    process.ask("train")
    process.ask("evaluate")
    process.close()


@pytest.mark.long
def test_a_source_that_fails_is_reported(tmp_path):
    package = tmp_path / "src" / "fromnoise"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('too old')\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="exit code 1"):
        StepProcess(tmp_path, ["--precisions", "fp32"])
