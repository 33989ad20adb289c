"""Training by one, two, three and one processes in turn, of which one is killed, stopped or continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from cases import Bench
from forked_ranks import children, free_port
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
    return [f"differs by {error:.2g}: {name}" for name, error in distances(out, expected).items() if error > 2e-4]


def distances(out: Path, expected: dict[str, Any]) -> dict[str, float]:
    """How far the tensors of the last state are from expected ones, relative to the largest value if it is above 1.

    Args:
        out: the run directory.
        expected: ``runs.content`` of another run.
    """
    from fromnoise import checkpoint

    path = sorted((out / "state").glob("*.safetensors"))[-1]
    tensors, _ = checkpoint.read(path)
    return {name: _error(tensor, expected[f"{path.name}/{name}"]) for name, tensor in tensors.items()}


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max())) if a.numel() else 0.0


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
    before = newest(place)
    launched = Launched(training, place, count, steps)
    if send is not None:
        while launched.running and newest(place) <= before and launched.seconds < SLOW:
            time.sleep(0.01)
        ranks = launched.ranks()
        if ranks:
            os.kill(ranks[max(ranks)], send)
            if send == signal.SIGSTOP:
                time.sleep(resume or 3.0)
                if resume:
                    os.kill(ranks[max(ranks)], signal.SIGCONT)
                else:
                    launched.launcher.terminate()
    return launched.wait(SLOW)


class Launched:
    """A training by one process, or by several under torchrun."""

    def __init__(self, training: Training, place: Path, count: int, steps: int = 0, restarts: int = 0) -> None:
        """Start it; time-outs are the environment's.

        Args:
            training: its words are used.
            place: the folder.
            count: of processes.
            steps: of the run; 0: those of the words.
            restarts: by torchrun, after a rank has died.
        """
        words = list(training.words)
        if steps:
            words[words.index("--steps") + 1] = str(steps)
        torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", str(count)]
        torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
        torchrun += ["--max-restarts", str(restarts), "-m", "fromnoise"]
        command = [*(torchrun if count > 1 else [sys.executable, "-m", "fromnoise"]), *words]
        self._begin, self._alone = time.monotonic(), count == 1
        self._files = [open(training.bench.folder / f"{place.name}.{name}", "w+") for name in ("out", "err")]
        self.launcher = subprocess.Popen(
            command,
            cwd=place,
            stdout=self._files[0],
            stderr=self._files[1],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.launcher.poll() is None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._begin

    def ranks(self) -> dict[int, int]:
        """The processes that train, by rank; those that have not replaced their launcher yet are left out."""
        if self._alone:
            return {0: self.launcher.pid} if self.running else {}
        found = {}
        for pid in children(self.launcher.pid):
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found |= {int(text[5:]): pid for text in variables if text.startswith(b"RANK=")}
        return found

    def wait(self, seconds: float) -> Outcome:
        """Wait for its end; after so many seconds all its processes are killed."""
        late = False
        try:
            self.launcher.wait(seconds)
        except subprocess.TimeoutExpired:
            late = True
            for pid in children(self.launcher.pid):
                os.kill(pid, signal.SIGKILL)
            self.launcher.kill()
            self.launcher.wait()
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        code = -signal.SIGALRM if late else self.launcher.returncode
        return Outcome(code, texts[0], texts[1], self.seconds, 0.0, 0.0, late)


def newest(place: Path) -> int:
    """The step of the last state; -1 without one."""
    return max((int(p.stem) for p in place.glob("out/state/0*.safetensors")), default=-1)
