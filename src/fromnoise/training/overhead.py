"""The time that a run spends on anything but training steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

UP_FRONT = "evaluation feature"
"""Spent at the start, for all evaluations: training the network of the features, and features of training images."""


class Overhead:
    """Adds up the duration of measurements and checkpoints, and says which of them a budget in minutes still allows."""

    def __init__(self, allowed: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at zero.

        Args:
            allowed: seconds that may be spent on all kinds but checkpoints; None for a budget that is not in minutes,
                whose measurements are those of its plan, so that a resumed run has the same ones.
            clock: returns seconds.
        """
        self.allowed, self._clock = allowed, clock
        self._last: dict[str, float] = {}
        self._total: dict[str, float] = {}

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Count the duration of the block, one of a kind."""
        start = self._clock()
        try:
            yield
        finally:
            self._last[kind] = self._clock() - start
            self._total[kind] = self._total.get(kind, 0.0) + self._last[kind]

    @property
    def seconds(self) -> float:
        """Spent so far in this process, in seconds."""
        return sum(self._total.values())

    def describe(self) -> str:
        """Seconds of each kind in words, each after a comma."""
        return "".join(f", {seconds:.1f} s for {kind}s" for kind, seconds in self._total.items())

    def last(self, kind: str) -> float:
        """Duration of the last one of a kind, in seconds; 0 if there was none."""
        return self._last.get(kind, 0.0)

    def allows(self, kind: str, budget_used: float) -> bool:
        """Whether another one of a kind may begin.

        What was spent since the start must not be ahead of the budget, and if the next one takes as long as the last
        of its kind, the sum must stay below what is allowed. Checkpoints have an allowance of their own.

        Args:
            kind: of the measurement.
            budget_used: fraction of the budget, in [0, 1].
        """
        if self.allowed is None:
            return True
        first = self._total.get(UP_FRONT, 0.0)
        spent, allowed = self.seconds - self._total.get("checkpoint", 0.0) - first, self.allowed - first
        return spent <= allowed * budget_used and spent + self.last(kind) <= allowed
