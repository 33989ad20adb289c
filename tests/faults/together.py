"""Several commands on one run folder at once, full disks, and a long run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from cases import Bench
from materials import NETWORK
from runs import LIMITS, Counts, Training, content
from sandbox import Child, Limits, Outcome, cli, violations

EVALUATE = ("evaluate", "out", "-n", "60", "--features", "pixels", "--bits", "0", "--device", "cpu")


def together(bench: Bench, seed: int, count: int) -> list[dict[str, Any]]:
    """Two trainings at once in one folder, and two evaluations at once of one run, ``count`` times each."""
    rng = random.Random(f"together/{seed}")
    training = Training(bench, 20)
    trainings = Counts("two trainings at once in one folder", seed)
    for case in range(count):
        place = training.new_folder("together")
        first = training.start(place)
        time.sleep(rng.uniform(0, 0.7 * training.seconds))
        second = Child(cli(*training.words), _beside(place), LIMITS, lambda place=place: os.chdir(place))
        outcomes = [first.wait(), second.wait()]
        broken = [text for outcome in outcomes for text in violations(outcome, LIMITS)]
        if all(outcome.code for outcome in outcomes):
            broken.append("neither has trained")
        broken += [
            f"refused: {o.message}" for o in outcomes if o.code == 2 and "another process is training" not in o.err
        ]
        finished, more = training.finish(place)
        trainings.add(case, [*outcomes, finished], broken + more)
    evaluations = Counts("two evaluations at once of one run", seed)
    place = training.new_folder("evaluated")
    assert training.start(place).wait().code == 0
    alone = Child(cli(*EVALUATE), place, LIMITS).wait()
    assert alone.code == 0, alone.err
    expected = _numbers(next(place.glob("out/evaluation-*/report.json")))
    for case in range(count):
        before = set(place.glob("out/evaluation-*"))
        first = Child(cli(*EVALUATE), place, LIMITS)
        time.sleep(rng.choice((0, 0, 0.05)))
        second = Child(cli(*EVALUATE), _beside(place), LIMITS, lambda: os.chdir(place))
        outcomes = [first.wait(), second.wait()]
        broken = [text for outcome in outcomes for text in violations(outcome, LIMITS)]
        new = sorted(set(place.glob("out/evaluation-*")) - before)
        if len(new) != sum(outcome.code == 0 for outcome in outcomes):
            broken.append(f"{len(new)} new reports")
        broken += [f"another {path.name}" for path in new if _numbers(path / "report.json") != expected]
        evaluations.add(case, outcomes, broken)
    return [trainings.row(), evaluations.row()]


def _beside(place: Path) -> Path:
    """A folder of its own for the output of a second process."""
    other = place.with_name(f"{place.name}-second")
    other.mkdir(exist_ok=True)
    return other


def _numbers(report: Path) -> Any:
    """The numbers of a report, without its speed."""
    if not report.exists():
        return None
    found = json.loads(report.read_text())["evaluations"]
    return [{key: value for key, value in each.items() if key != "cost"} for each in found]


# ---- small disks

_NEW_NAMESPACE, _PRIVATE, _RECURSIVE, _REMOUNT = 0x20000, 1 << 18, 1 << 14, 32


def _mount(target: Path, size: int, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount is not permitted")


def _own_mounts() -> None:
    """Give this process mounts that no other process sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE) or libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None):
        raise OSError(ctypes.get_errno(), "unshare is not permitted")


def may_mount() -> bool:
    """Whether a process may have mounts of its own here."""
    child = os.fork()
    if child == 0:
        try:
            _own_mounts()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def small_disks(bench: Bench, seed: int, sizes: list[int]) -> list[dict[str, Any]]:
    """A run on a tmpfs of each size, and its end when the disk has become larger.

    Where mounting is not permitted, files are limited to the size instead (RLIMIT_FSIZE).

    Args:
        bench: has the data.
        seed: for the table; nothing is random.
        sizes: bytes.
    """
    training, mounts = Training(bench, 6), may_mount()
    counts = Counts("disk of few kilobytes" if mounts else "files limited to few kilobytes", seed)
    for size in sizes:
        place = training.new_folder("small")
        outcomes: list[Outcome] = []
        if mounts:
            outcomes, broken = _on_tmpfs(training, place, size)
        else:
            limits = Limits(LIMITS.seconds, LIMITS.cpu_seconds, LIMITS.memory_mb, size)
            outcomes.append(Child(cli(*training.words), place, limits).wait())
            finished, broken = training.finish(place)
            outcomes.append(finished)
        broken += violations(outcomes[0], LIMITS)
        counts.add(f"{size} bytes", outcomes, broken)
    counts.remark = f"sizes {', '.join(f'{size >> 10} KiB' for size in sizes)}"
    return [counts.row()]


def _on_tmpfs(training: Training, place: Path, size: int) -> tuple[list[Outcome], list[str]]:
    """Both processes in a namespace with the small disk; what the second left is compared there."""
    answer = training.bench.folder / "answer.json"

    def inside() -> None:
        _own_mounts()
        data = (place / "pics.npz").read_bytes()
        _mount(place, size + len(data) + 8192)
        (place / "pics.npz").write_bytes(data)
        outcomes = [training.start(place).wait()]
        _mount(place, 1 << 30, _REMOUNT)
        finished, broken = training.finish(place)
        answer.write_text(json.dumps([[o.__dict__ for o in (*outcomes, finished)], broken]))

    outer = Child(inside, _beside(place), LIMITS).wait()
    if outer.code != 0 or not answer.exists():
        return [outer], [f"the test itself failed: {outer.message}"]
    values, broken = json.loads(answer.read_text())
    answer.unlink()
    return [Outcome(**value) for value in values], broken


# ---- a long run


def endurance(bench: Bench, seed: int, steps: int) -> list[dict[str, Any]]:
    """Many steps of a tiny network, whose memory and open files must not grow, and an interruption in between.

    The memory may grow by 16 MB and the descriptors by none between a tenth of the steps and their end.
    """
    counts = Counts(f"{steps:,} steps, memory and descriptors", seed)
    place = Training(bench, 2).new_folder("long")
    flags = ("--train.checkpoint_seconds", "2", "--train.previews", "20", "--train.evaluations", "20")
    words = ("train", "digits", "--data", "pics.npz", "--steps", str(steps), "--out", "out", *NETWORK, *flags)
    rest = ("--batch", "4", "--train.held_out", "8", "--sample.count", "2", "--sample.steps", "2", "--device", "cpu")
    limits = Limits(seconds=3600, cpu_seconds=3000)
    child = Child(cli(*words, *rest), place, limits)
    samples: list[tuple[int, float, int]] = []
    interrupted = False
    outcomes = []
    while True:
        time.sleep(0.5)
        with contextlib.suppress(OSError, ValueError, IndexError):
            step = json.loads((place / "out" / "reports.jsonl").read_text().splitlines()[-1])["step"]
            resident = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096 / 2**20
            samples.append((step, resident, len(os.listdir(f"/proc/{child.pid}/fd"))))
            if not interrupted and step > 0.55 * steps:
                child.send(signal.SIGTERM)
                interrupted = True
        if not child.running():
            outcomes.append(child.wait())
            if outcomes[-1].code != 143 or len(outcomes) > 1:
                break
            split = len(samples)
            child = Child(cli(*words, *rest), place, limits)
    broken = [text for outcome in outcomes for text in violations(outcome, limits)]
    late = [s for s in samples[:split] if s[0] >= steps / 10] if len(outcomes) > 1 else samples
    if len(late) < 2:
        broken.append("too few samples of memory")
    else:
        growth, descriptors = max(s[1] for s in late) - late[0][1], max(s[2] for s in late) - late[0][2]
        counts.remark = f"memory grew by {growth:.1f} MB, open files by {descriptors}"
        if growth > 16 or descriptors > 2:  # a file that is being written at this moment, and its folder
            broken.append(counts.remark)
    state = content(place / "out") if outcomes[-1].code == 0 else {}
    if not any(name.startswith(f"{steps:09d}") for name in state):
        broken.append("no state of the last step")
    counts.add(steps, outcomes, broken)
    return [counts.row()]
