"""Packing that is killed, or whose disk is full, at any of its operations goes on to the same bytes."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from crash_points import Disk
from sandbox import Child, Limits, violations

from fromnoise.data.shards.pack import PackSettings, pack
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

LIMITS = Limits(seconds=60)
EVERY = 19  # operations between two that fail


def pack_here(place: Path) -> int:
    """Pack three small shards; the exit code."""
    splits = open_splits(str(place.parent / "x.npz"))
    try:
        pack(splits, place / "out", PackSettings(shard_bytes=5_000), lambda line: None, 1)
    except UserError as error:
        print(f"fromnoise: {error}", file=sys.stderr)
        return 2
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, which a killed process leaves."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="the processes of the cases need Linux")
@pytest.mark.parametrize("way", ["kill", "full"])
def test_packing_ends_as_if_it_had_not_been_disturbed(way: str, tmp_path: Path) -> None:
    """A full disk is one line; the same command, given again, writes what is missing."""
    np.savez(tmp_path / "x.npz", images=np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8), labels=np.arange(8) % 2)
    record, place = tmp_path / "operations", tmp_path / "counted"
    place.mkdir()
    counted = Child(partial(pack_here, place), place, LIMITS, Disk(place, record=record).install)
    assert counted.wait().code == 0
    expected, operations = contents(place / "out"), record.read_text().splitlines()
    assert len(operations) > 50 and len([name for name in expected if name.endswith(".tar")]) == 3
    for at in range(len(operations) % EVERY, len(operations), EVERY):
        place = tmp_path / f"{way}-{at}"
        place.mkdir()
        disk = Disk(place, at, way)
        outcome = Child(partial(pack_here, place), place, LIMITS, disk.install).wait()
        if way == "kill":
            assert outcome.code == -signal.SIGKILL, (at, operations[at])
        else:
            assert violations(outcome, LIMITS) == [], (at, operations[at], outcome.err)
        assert pack_here(place) == 0, (at, operations[at])
        assert contents(place / "out") == expected, (at, operations[at])
