"""The fault campaign of CI: mutated headers, files and command lines (see campaign.py; docs/results/faults.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARTS = {
    "files": ["fixed", "idx", "idx.gz", "npy", "npz", "zip", "tar", "parquet", "csv", "toml", "jpg"],
    "runs": ["png", "header", "safetensors", "jsonl", "command"],
}
"""Kinds of cases that share a process, which costs a start and three short trainings; both take about equally long.

``fixed`` are the cases of earlier campaigns that broke the rule, each a file of fixed_cases/.
"""


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
    if "fixed" in PARTS[part]:
        assert f'"kind": "fixed", "cases": {len(list((HERE / "fixed_cases").glob("*.json")))},' in done.stdout
