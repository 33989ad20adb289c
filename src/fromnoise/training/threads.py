"""The number of CPU threads of training, which follows the measured speed.

Each parallel operation waits for its slowest thread. Beside other busy processes one of the threads is always
descheduled, so that several threads can be slower than one (docs/results/busy-machine.md). The sum over a
batch depends on the number of threads in its last digits; ``train.threads`` fixes the number.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

FASTER = 1.25
"""A number of threads replaces the present one if it is this many times faster."""
_SLOWER = 1.5  # slower than usual by this factor starts a trial
_BLOCK_STEPS, _BLOCK_SECONDS = 5, 0.5  # steps whose mean duration is compared, at least
_TRIAL_STEPS, _TRIAL_SECONDS = 2, 0.1  # timed steps of a trial, at least, after one that is not timed
_HOPELESS = 3.0  # a trial ends when a step takes this many times as long as with the present number
_PAUSE_SECONDS = 20.0  # between two trials, at least
_PAUSE_FACTOR = 30.0  # trials take about 1/30 of the time
_CONTENDED = 10.0  # involuntary context switches a second that show other busy processes


def choose_threads(seconds_with: Callable[[int], float], limit: int) -> int:
    """The number of threads for a piece of work: ``limit``, half of it, and so on, while that is faster.

    Args:
        seconds_with: duration of the work with a number of threads.
        limit: the largest number.
    """
    best, count = limit, limit
    if limit == 1:
        return 1
    fastest = seconds_with(limit)
    while count > 1:
        count //= 2
        seconds = seconds_with(count)
        if seconds * FASTER > fastest:
            break
        best, fastest = count, seconds
    return best


def preemptions() -> int:
    """How often the cores were taken from this process so far; 0 where the system does not count it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0


def contended(switches: int, seconds: float) -> bool:
    """Whether so many preemptions in so many seconds show other busy processes."""
    return switches > _CONTENDED * seconds


class ThreadTuner:
    """Tries other numbers of threads in real training steps, when these become slower and when other processes end.

    On a machine without other busy processes nothing is tried, so that a resumed run equals the uninterrupted one.

    Attributes:
        count: the number of threads in use.
        limit: the largest number, that of torch when training starts.
    """

    def __init__(
        self,
        count: int,
        limit: int,
        log: Callable[[str], None] = lambda line: None,
        set_threads: Callable[[int], object] = torch.set_num_threads,
        count_preemptions: Callable[[], int] = preemptions,
        contended: bool = False,
    ) -> None:
        """Set the number of threads.

        Args:
            count: to begin with.
            limit: the largest number; equal to 1: nothing is tried.
            log: receives a line when the number changes.
            set_threads: sets the number.
            count_preemptions: as ``preemptions``.
            contended: whether other processes were busy when ``count`` was chosen.
        """
        self._count_preemptions, self._preemptions = count_preemptions, count_preemptions()
        self._contended = contended  # since the last trial
        self.count, self.limit, self._log, self._set_threads = count, limit, log, set_threads
        self._usual = float("inf")  # least mean of a block with this number
        self._mean = float("inf")  # of the last block
        self._block: list[float] = []
        self._slow_blocks = 0
        self._trials: list[int] = []  # numbers to be tried
        self._timed: list[float] | None = None  # steps of the present trial; None before its first step
        self._trial_seconds, self._since_trial = 0.0, 0.0
        set_threads(count)

    def observe(self, seconds: float) -> None:
        """Take in the duration of a step, and set the number of threads of the next one."""
        if self.limit == 1:
            return
        if self._trials:
            self._observe_trial(seconds)
            return
        self._since_trial += seconds
        self._block.append(seconds)
        if len(self._block) < _BLOCK_STEPS or sum(self._block) < _BLOCK_SECONDS:
            return
        before, self._preemptions = self._preemptions, self._count_preemptions()
        self._contended |= contended(self._preemptions - before, sum(self._block))
        self._mean = sum(self._block) / len(self._block)
        self._block.clear()
        self._usual = min(self._usual, self._mean)
        self._slow_blocks = self._slow_blocks + 1 if self._mean > _SLOWER * self._usual else 0
        rested = self._since_trial > _PAUSE_FACTOR * self._trial_seconds
        if rested and self._slow_blocks >= 2:
            self._start_trials()
        elif rested and self._contended and self.count < self.limit and self._since_trial > _PAUSE_SECONDS:
            self._start_trials()

    def _start_trials(self) -> None:
        half, double = self.count // 2, min(self.limit, 2 * self.count)
        self._trials = [n for n in (half, double) if n >= 1 and n != self.count]
        self._timed, self._trial_seconds, self._since_trial, self._contended = None, 0.0, 0.0, False
        self._set_threads(self._trials[0])

    def _observe_trial(self, seconds: float) -> None:
        self._trial_seconds += seconds
        hopeless = seconds > _HOPELESS * self._mean
        if self._timed is None and not hopeless:
            self._timed = []  # the first step prepares what depends on the number of threads
            return
        self._timed = [*(self._timed or []), seconds]
        if not hopeless and (len(self._timed) < _TRIAL_STEPS or sum(self._timed) < _TRIAL_SECONDS):
            return
        mean = sum(self._timed) / len(self._timed)
        tried = self._trials.pop(0)
        self._timed = None
        if mean * FASTER < self._mean:
            self._log(f"threads: {tried} instead of {self.count}, {mean:.3g} s a step instead of {self._mean:.3g}")
            self.count, self._usual, self._trials = tried, float("inf"), []
        elif not self._trials:
            self._usual = self._mean  # as fast as the machine is now
        self._slow_blocks, self._preemptions = 0, self._count_preemptions()
        self._set_threads(self._trials[0] if self._trials else self.count)


@contextlib.contextmanager
def restored_threads() -> Iterator[None]:
    """Set torch's number of threads back at the end of the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """Median duration of ``times`` calls, after one that prepares what depends on the number of threads."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def busy_seconds_of(work: Callable[[], object]) -> float:
    """Duration of a call without the time that this process waited for a core, after one that prepares.

    The lesser of the duration and of the CPU time, which is the sum over the threads: without other busy processes it
    is the duration.
    """
    work()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - start, time.process_time() - cpu)
