"""Random ranks of many trainings are killed at random moments, and the number of processes changes at each restart.

python tests/faults/campaign_long.py ranks --kills 100 --minutes 120 --json build/faults/ranks.json
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from cases import Bench
from forked_ranks import ForkedRanks
from processes import FLAGS, SLOW, Launched, distances, newest
from runs import Counts, Training, content
from sandbox import Outcome

STEPS, STATES = 120, 5  # of a run, and between its states
TOLERANCE = 1e-5
"""Of weights and averages, relative to the largest value of a tensor if that is above 1."""
TOLERANCES = {"Muon": 1e-4}
"""Orthogonalization enlarges the rounding of small singular values, which differs with the number of processes."""
TIMEOUTS = {"FROMNOISE_START_TIMEOUT": "400", "FROMNOISE_STALL_TIMEOUT": "200"}
"""Wide, so that a slow machine is not a stalled rank; torchrun finds killed ranks at once."""
TORCHRUN = 0.25
"""Share of the launches by torchrun and new interpreters; the others fork their ranks, which is faster."""
KINDS: dict[str, tuple[str, ...]] = {
    "two averages": ("--ema.decays", "[0.9, 0.5]"),
    "labels": ("--data.labels", "true", "--ema.decays", "[0.9]"),
    "accumulation": ("--train.accumulate", "2", "--ema.decays", "[0.9]"),
    "Muon": ("--train.optimizer", "muon", "--ema.decays", "[0.9]"),
    "evaluations": (
        *("--evaluation.times", "3", "--train.previews", "3", "--ema.decays", "[0.9]"),
        *("--train.evaluation_share", "0.9"),  # a busy machine is not to leave any out
    ),
}
"""More flags of the trainings."""


def rank_kills(bench: Bench, seed: int, count: int, minutes: float) -> list[dict[str, Any]]:
    """Runs of ``STEPS`` steps, each started again after every kill until it ends, and compared with one process.

    The rule: an undisturbed launch exits with 0, a bystander of a kill prints no traceback, and weights and averages
    end within ``TOLERANCE``, or that of the kind in ``TOLERANCES``, of those of an undisturbed run by one process, with
    reports of the same steps.

    Args:
        bench: has the data.
        seed: of the ranks, moments and numbers of processes.
        count: of kills, after which no run is begun.
        minutes: after which no run is begun and none is killed.
    """
    os.environ |= TIMEOUTS
    end, rng = time.monotonic() + 60 * minutes, random.Random(f"ranks/{seed}")
    flags = (*FLAGS, "--train.checkpoint_steps", str(STATES))
    largest, kills = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    trainings = {name: Training(bench, STEPS, *flags, *words) for name, words in KINDS.items()}
    counts, killed, starts, torchrun = Counts("ranks killed at random", seed), 0, [], 0
    for number, name in enumerate(cycle(KINDS)):
        if killed >= count or time.monotonic() > end:
            break
        limit, run = TOLERANCES.get(name, TOLERANCE), Run(trainings[name], rng)
        outcomes, broken = list(run.launches(count - killed, end)), []
        broken += run.broken
        if not broken:
            errors = distances(run.place / "out", trainings[name].expected)
            errors = {key: value for key, value in errors.items() if key.startswith(("model.", "ema."))}
            broken += [f"differs by {value:.2g}: {key}" for key, value in errors.items() if value > limit]
            largest[name] = max(largest[name], *errors.values())
        killed += run.killed
        kills[name] += run.killed
        starts += run.counts
        torchrun += sum(run.torchrun)
        counts.add(f"{number} ({name})", outcomes, broken)
        print(
            f"run {number}, {name}: {run.killed} kills, {run.restarts} restarts by the launcher, "
            f"processes {run.counts}, {'broken' if broken else 'equal'}; {killed} kills, "
            f"largest difference {largest[name]:.1e}",
            flush=True,
        )
    by = ", ".join(f"{starts.count(n)} by {n}" for n in (1, 2, 3))
    within = ", ".join(f"{name} {largest[name]:.1e} ({kills[name]} kills)" for name in KINDS)
    counts.remark = f"{killed} kills; launches: {by}, of which {torchrun} by torchrun or a new interpreter; "
    counts.remark += f"largest difference of weights and averages: {within}"
    return [counts.row()]


class Run:
    """A training that is killed and started again.

    Attributes:
        place: its folder.
        killed: number of kills so far.
        restarts: those after which the launcher has started the ranks again.
        counts: number of processes of each launch.
        torchrun: whether each launch was by torchrun, or for one process by a new interpreter.
        broken: what broke the rule.
    """

    def __init__(self, training: Training, rng: random.Random) -> None:
        """Prepare it.

        Args:
            training: what to train.
            rng: of ranks, moments and numbers of processes.
        """
        self._training, self._rng = training, rng
        self.place = training.new_folder("killed")
        self.killed = self.restarts = 0
        self.counts: list[int] = []
        self.torchrun: list[bool] = []
        self.broken: list[str] = []
        self._start = 5.0  # seconds from a launch to its first state, as last seen

    def launches(self, most: int, end: float) -> Iterator[Outcome]:
        """Launch it until it ends or something is broken.

        Args:
            most: number of kills.
            end: time after which none is killed.
        """
        while not self.broken:
            count = self._rng.choice([n for n in (1, 2, 3) if n not in self.counts[-1:]])
            self.counts.append(count)
            restarts = self._rng.choice((0, 0, 1)) if count > 1 else 0
            self.torchrun.append(self._rng.random() < TORCHRUN)
            launcher = Launched if self.torchrun[-1] else ForkedRanks
            launched = launcher(self._training, self.place, count, restarts=restarts)
            known: dict[int, int] = {}
            kills = 0
            while kills <= restarts and self.killed < most and time.monotonic() < end:
                ranks = self._next_ranks(launched, known, count)
                if not ranks or not self._kill(launched, ranks):
                    break
                known, kills = ranks, kills + 1
                self.killed += 1
            outcome = launched.wait(SLOW)
            self.restarts += kills if kills <= restarts else restarts
            expected = (0,) if kills <= restarts else (1, -9)
            if outcome.code not in expected and not (kills and outcome.code == 0):
                self.broken.append(f"{count} processes, {kills} kills: exit code {outcome.code}")
            if any(line.lstrip().startswith("File ") and "/fromnoise/" in line for line in outcome.err.splitlines()):
                self.broken.append(f"{count} processes, {kills} kills: traceback")
            yield outcome
            if outcome.code == 0:
                break
        if not self.broken and _steps(content(self.place / "out")) != _steps(self._training.expected):
            self.broken.append("reports of other steps")

    def _next_ranks(self, launched: Launched | ForkedRanks, known: dict[int, int], count: int) -> dict[int, int]:
        """The ranks of a launch, all of them other processes than the killed ones; empty if it ends before."""
        while launched.running and launched.seconds < SLOW:
            ranks = launched.ranks()
            if len(ranks) == count and not set(ranks.values()) & set(known.values()):
                return ranks
            time.sleep(0.01)
        return {}

    def _kill(self, launched: Launched | ForkedRanks, ranks: dict[int, int]) -> bool:
        """Wait for a moment, while it starts or after some new states, and kill a rank; False if all ended before."""
        rng, begin, before = self._rng, time.monotonic(), newest(self.place)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0, self._start))
        else:
            states = rng.randint(1, 6)
            first = True
            while (step := newest(self.place)) < before + states * STATES:
                if first and step > before:
                    self._start, first = time.monotonic() - begin, False
                if not launched.running or not _alive(ranks) or launched.seconds > SLOW:
                    return False
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
        victim = ranks[rng.choice(sorted(ranks))]
        if not _alive({0: victim}):
            return False
        os.kill(victim, signal.SIGKILL)
        return True


def _alive(ranks: dict[int, int]) -> bool:
    """Whether all processes exist and are no zombies."""
    try:
        return all(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" for pid in ranks.values())
    except OSError:
        return False


def _steps(found: dict[str, Any]) -> list[int]:
    """The steps of the reports of a run."""
    return [row["step"] for row in found["reports.jsonl"]]
