"""Training speed beside other busy processes: with the number of threads that is measured, and with all.

python benchmarks/busy_machine.py [--recipe digits] [--busy 2] [--seconds 30] [--rounds 3]

One process trains without a pause. In each round the machine is left alone for a while, then as many busy loops run as
--busy says, and the steps of each while are counted, in its second half and in all of it: the threads follow the
machine only after some seconds. "Other processes" is what all processes but these took of the cores meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fromnoise.utils.environment import set_environment


@dataclass(frozen=True)
class Phase:
    """Speed in a phase of a round.

    Attributes:
        settled: steps a second in the second half.
        whole: steps a second in all of it.
        threads: number of threads at the end.
        others: cores that processes other than these took.
    """

    settled: float
    whole: float
    threads: int
    others: float


def train(recipe_name: str, data: str | None, threads: int | None) -> None:
    """Train for ever; prints a line with the time and the number of threads after each step."""
    import torch

    from fromnoise import config
    from fromnoise.training.run import train as train_run

    values: dict[str, object] = {"train.minutes": 600, "train.previews": 0, "train.evaluations": 1, "train.held_out": 1}
    values |= {"train.threads": threads} if threads is not None else {}
    values |= {"data.source": data} if data else {}
    recipe = config.load(recipe_name, values)
    from fromnoise.training import loop

    report = loop.TrainingLoop._report

    def reported(self, *args):  # noqa: ANN001, ANN002, ANN202
        print(time.monotonic(), torch.get_num_threads(), flush=True)
        return report(self, *args)

    loop.TrainingLoop._report = reported  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        train_run(recipe, Path(folder) / "run", device="cpu")


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of a process, or of all since the machine started."""
    tick = os.sysconf("SC_CLK_TCK")
    if pid is None:
        fields = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4] - fields[7]) / tick  # not idle, waiting or stolen
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / tick


class Worker:
    """A process that trains, and the times of its steps."""

    def __init__(self, arguments: list[str]) -> None:
        """Start it."""
        self.steps: list[tuple[float, int]] = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--train", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            moment, threads = line.split()
            self.steps.append((float(moment), int(threads)))

    def phase(self, seconds: float, busy: int) -> Phase:
        """Measure for a while beside ``busy`` busy loops."""
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        own = [self.process.pid, *(p.pid for p in loops)]
        start, before, before_own = time.monotonic(), cpu_seconds(), sum(map(cpu_seconds, own))
        try:
            time.sleep(seconds)
            end = time.monotonic()
            others = (cpu_seconds() - before) - (sum(map(cpu_seconds, own)) - before_own)
        finally:
            for p in loops:
                p.kill()
                p.wait()
        return Phase(
            self._rate(start + seconds / 2, end), self._rate(start, end), self.steps[-1][1], others / (end - start)
        )

    def _rate(self, start: float, end: float) -> float:
        """Steps a second between two moments, from the first to the last step that ended there."""
        times = [moment for moment, _ in self.steps if start <= moment <= end]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 2 else len(times) / (end - start)


def main() -> None:
    """Measure and print the table."""
    from header import header

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data", help="data SPEC, where the recipe needs one")
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of a phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.recipe, args.data, args.threads)
        return
    print(header())
    print(f"recipe {args.recipe}, {args.busy} busy processes, {args.rounds} rounds of 2 x {args.seconds:g} s; medians")
    print("| threads | machine | steps/s | in the whole phase | threads at the end | kept | other processes, cores |")
    print("|---|---|---|---|---|---|---|")
    rest = ["--recipe", args.recipe, *(["--data", args.data] if args.data else [])]
    for name, flags in (("measured", []), ("all", ["--threads", str(os.cpu_count())])):
        worker = Worker([*rest, *flags])
        try:
            while len(worker.steps) < 5:
                time.sleep(0.1)
                if worker.process.poll() is not None:
                    sys.exit("the training process ended")
            phases = [
                (worker.phase(args.seconds, 0), worker.phase(args.seconds, args.busy)) for _ in range(args.rounds)
            ]
        finally:
            worker.process.kill()
            worker.process.wait()
        quiet_speed = statistics.median(quiet.settled for quiet, _ in phases)
        for machine, found in zip(("quiet", "busy"), zip(*phases, strict=True), strict=True):
            settled, whole, others = (
                statistics.median(getattr(p, key) for p in found) for key in ("settled", "whole", "others")
            )
            counts = ", ".join(str(p.threads) for p in found)
            speeds = f"{settled:.3g} | {whole:.3g} | {counts} | {settled / quiet_speed:.2f}"
            print(f"| {name} | {machine} | {speeds} | {others:.2f} |")


if __name__ == "__main__":
    set_environment()  # as the command line does; torch is imported after it
    main()
