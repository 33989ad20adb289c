"""The long fault campaign, not in CI: ``make test-faults-long`` (see campaign_long.py; docs/results/faults.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits of the cases need Linux"),
]


def program(name: str, *words: object) -> None:
    """Run a campaign program, which must exit with 0."""
    done = subprocess.run([sys.executable, str(HERE / name), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-3000:]


@pytest.mark.parametrize("part", ["crash_points", "kills", "disks", "processes", "ranks", "together", "endurance"])
def test_disturbed_runs_end_as_undisturbed_ones(part, setting, results):
    """FROMNOISE_FAULT_EVERY, _KILLS, _MINUTES, _TOGETHER and _STEPS make it shorter."""
    numbers = [
        *("--every", setting("EVERY", 1), "--kills", setting("KILLS", 100)),
        *("--minutes", setting("MINUTES", 120), "--together", setting("TOGETHER", 10)),
        *("--steps", setting("STEPS", 10_000)),
    ]
    program("campaign_long.py", part, *numbers, "--seed", setting("SEED", 1), "--json", results / f"long-{part}.json")


def test_two_thousand_mutations_keep_the_rule(setting, results):
    """Other cases than those of CI, unless the seed is set; FROMNOISE_FAULT_MUTATIONS is their number."""
    from generate import generators

    kinds = [kind for kind in generators() if kind != "command"]
    words = ["--count", -(-setting("MUTATIONS", 2000) // len(kinds)), "--seed", setting("SEED", 2)]
    out = ["--json", results / "long-mutations.json", "--failed", results / "failed"]
    program("campaign.py", *kinds, *words, *out)
