"""Reports and logs with bad lines are read as far as they are good, and what was left out is named (review C4)."""

from __future__ import annotations

import json
import os

import pytest
from tiny_runs import open_run, report

from fromnoise.run_dir.reports import parse_report
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import append

run = pytest.fixture(open_run)

BAD_LINES = [
    b"",
    b"{",
    b"not json",
    b"\xff\xfe\x00",
    b"[" * 50_000,
    b"[1, 2]",
    b"7",
    b"null",
    b'{"step": 3}',
    b'{"step": "3", "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}}',
    b'{"step": -1, "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}}',
    b'{"step": 3, "images": 1, "dropped_steps": 0, "timing": []}',
    b'{"step": 3, "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}, "held_out_loss": "x"}',
    b'{"step": 3, "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}, "loss_by_t": {"a": 1}}',
    b'{"step": 3, "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}, "loss": NaN}',
    b'{"step": 3, "images": 1, "dropped_steps": 0, "timing": {"seconds": 1}, "loss": 1e999}',
    b'{"step": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_c4_one_bad_line_among_reports(run, line):
    """It is left out and named; the reports before and after it are read."""
    run.write_reports([report(1)])
    append(run.reports, line + b"\n")
    run.write_reports([report(2, held_out_loss=0.3, loss_by_t=[0.5, None])])
    assert [r["step"] for r in run.read_reports()] == [1, 2]
    if line:
        assert run.notices == [f"{run.reports}: line 2 is damaged and was left out"]
        assert run.notices[0] in run.log_file.read_text()


def test_c4_many_bad_lines(run):
    """They are counted; the same notice comes once."""
    run.reports.write_bytes(b"".join(b"bad\n" for _ in range(1000)) + json.dumps(report(1)).encode() + b"\n")
    assert len(run.read_reports()) == len(run.read_reports()) == 1
    assert run.notices == [f"{run.reports}: 1,000 lines are damaged and were left out, the first is line 1"]


def test_c4_resumption_keeps_the_damaged_file(run):
    """The reports up to the state are kept, the damaged file beside them."""
    run.write_reports([report(1)])
    append(run.reports, b"bad\n")
    run.write_reports([report(2), report(3)])
    before = run.reports.read_bytes()
    run.truncate_reports(2)
    assert [json.loads(line)["step"] for line in run.reports.read_text().splitlines()] == [1, 2]
    assert (run.path / "reports.jsonl.damaged").read_bytes() == before
    run.truncate_reports(2)
    assert len(run.notices) == 1


def test_c4_reports_after_an_incomplete_line(run):
    """A line that a killed process left unfinished does not swallow the next one."""
    run.reports.write_bytes(json.dumps(report(1)).encode() + b'\n{"step": 2, "lo')
    run.write_reports([report(2)])
    assert [r["step"] for r in run.read_reports()] == [1, 2]
    run.log_file.write_bytes(b"half a li")
    run.log("whole")
    assert run.log_file.read_text().splitlines()[-1].endswith("whole")


def test_c4_full_disk_leaves_whole_lines(run, monkeypatch):
    """What was written of a line before the disk was full is removed."""
    run.write_reports([report(1)])
    write, calls = os.write, []

    def failing(handle, data):
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(handle, bytes(data)[:10])

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(UserError, match="No space left"):
        run.write_reports([report(2)])
    monkeypatch.undo()
    assert run.reports.read_text() == json.dumps(report(1)) + "\n"


def test_c4_real_reports_are_reports():
    """What training writes is accepted, also without finite losses."""
    from fromnoise.training.progress import StepReport

    full = StepReport(5, 40, float("nan"), 1e-3, 0.5, 1, 0, float("inf"), True, timing={"seconds": 1.0})
    assert parse_report(json.dumps(full.to_json()).encode()) == full.to_json()
