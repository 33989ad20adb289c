"""Cases of earlier campaigns that broke the rule, each as a file of fixed_cases/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="the limits of the cases need Linux")
def test_fixed_cases_keep_the_rule(results):
    """All of them, in one process."""
    cases = sorted((HERE / "fixed_cases").glob("*.json"))
    done = subprocess.run(
        [sys.executable, str(HERE / "campaign.py"), "fixed", "--json", str(results / "campaign-fixed.json")],
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert f'"cases": {len(cases)}' in done.stdout
