"""Training by one, two, three and one processes in turn, of which one is killed, stopped or continued."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from cases import Bench
from runs import Counts, Training
from sandbox import Outcome

SLOW = 600.0
FLAGS = ("--batch", "12", "--precision", "fp32", "--evaluation.times", "0", "--network.dropout", "0")


def processes(bench: Bench, seed: int) -> list[dict[str, Any]]:
    """Steps 1-20 by one process, to 40 by two, to 60 by three, to 80 by one.

    With two, one is killed and the command repeated; with three, one is stopped for three seconds and continues, and
    then one is stopped while the launcher is terminated.
    """
    counts = Counts("1, 2, 3, 1 processes, one killed or stopped", seed)
    alone = Training(bench, 80, *FLAGS)
    place = alone.new_folder("processes")
    outcomes, broken = [], []

    def note(name: str, outcome: Outcome, codes: tuple[int, ...]) -> None:
        outcomes.append(outcome)
        if outcome.code not in codes:
            broken.append(f"{name}: exit code {outcome.code}")
        if codes == (0,) and "Traceback" in outcome.err:
            broken.append(f"{name}: traceback")

    note("one process", _run(alone, place, 20, 1), (0,))
    note("two, one of them killed", _run(alone, place, 40, 2, signal.SIGKILL), tuple(range(-15, 256)))
    note("two again", _run(alone, place, 40, 2), (0,))
    note("three, one of them paused", _run(alone, place, 50, 3, signal.SIGSTOP, resume=3.0), (0,))
    note("three, one of them stopped, terminated", _run(alone, place, 60, 3, signal.SIGSTOP), tuple(range(-15, 256)))
    note("three again", _run(alone, place, 60, 3), (0,))
    note("one again", _run(alone, place, 80, 1), (0,))
    broken += _far(place / "out", alone.expected)
    counts.add("steps 1 to 80", outcomes, broken)
    counts.remark = "weights equal those of one process to 2e-4"
    return [counts.row()]


def _far(out: Path, expected: dict[str, Any]) -> list[str]:
    """Tensors of the last state that are further from those of one process than float32 and another order of sums."""
    from fromnoise import checkpoint

    path = sorted((out / "state").glob("*.safetensors"))[-1]
    tensors, _ = checkpoint.read(path)
    return [
        f"differs by {error:.2g}: {name}"
        for name, tensor in tensors.items()
        if (error := _error(tensor, expected[f"{path.name}/{name}"])) > 2e-4
    ]


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max())) if a.numel() else 0.0


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _run(
    training: Training, place: Path, steps: int, count: int, send: signal.Signals | None = None, resume: float = 0.0
) -> Outcome:
    """Train to a step with some processes in a real launcher.

    Args:
        training: its words are used.
        place: the folder.
        steps: of the run.
        count: of processes.
        send: sent to the last process when the first new state is there.
        resume: seconds after which a stopped process continues; 0: the launcher is terminated instead.
    """
    words = list(training.words)
    words[words.index("--steps") + 1] = str(steps)
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", str(count)]
    torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(_free_port()), "-m", "fromnoise"]
    command = [*(torchrun if count > 1 else [sys.executable, "-m", "fromnoise"]), *words]
    begin, before = time.monotonic(), _newest(place)
    out, err = (open(training.bench.folder / name, "w+") for name in ("processes.out", "processes.err"))
    launcher = subprocess.Popen(
        command, cwd=place, stdout=out, stderr=err, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    )
    if send is not None:
        while launcher.poll() is None and _newest(place) <= before and time.monotonic() - begin < SLOW:
            time.sleep(0.01)
        ranks = _children(launcher.pid)
        if ranks:
            os.kill(ranks[-1], send)
            if send == signal.SIGSTOP:
                time.sleep(resume or 3.0)
                if resume:
                    os.kill(ranks[-1], signal.SIGCONT)
                else:
                    launcher.terminate()
    late = False
    try:
        launcher.wait(SLOW)
    except subprocess.TimeoutExpired:
        late = True
        for rank in _children(launcher.pid):
            os.kill(rank, signal.SIGKILL)
        launcher.kill()
        launcher.wait()
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read())
        file.close()
    seconds = time.monotonic() - begin
    code = -signal.SIGALRM if late else launcher.returncode
    return Outcome(code, texts[0], texts[1], seconds, 0.0, 0.0, late)


def _children(pid: int) -> list[int]:
    """The child processes of a process, the oldest first."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _newest(place: Path) -> int:
    return max((int(p.stem) for p in place.glob("out/state/0*.safetensors")), default=-1)
