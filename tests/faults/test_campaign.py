"""The fault campaign of CI: mutated headers, files and command lines (see campaign.py; docs/results/faults.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARTS = {
    "files": ["idx", "idx.gz", "npy", "npz", "zip", "tar", "parquet", "csv", "png", "jpg", "toml"],
    "runs": ["header", "safetensors", "jsonl"],
    "commands": ["command"],
}
"""Kinds of cases that share a process; each process costs a start and three short trainings."""


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="the limits of the cases need Linux")
@pytest.mark.parametrize("part", PARTS)
def test_every_case_keeps_the_rule(part, setting, results):
    """Exit code 0, 2, 130 or 143, one line without a traceback, within the limits, results as without the damage."""
    out = results / f"campaign-{part}.json"
    words = ["--count", str(setting("COUNT", 100)), "--seed", str(setting("SEED", 1)), "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(HERE / "campaign.py"), *PARTS[part], *words, "--failed", str(results / "failed")],
        capture_output=True,
        text=True,
        timeout=540 * max(1, setting("COUNT", 100) // 100),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
