"""The progress bar of training: per cent of the budget, loss, speed and remaining time."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from fromnoise.training.progress import StepReport
from fromnoise.utils.progress_bar import in_notebook, progress_bar


class TrainingBar:
    """Shows the reports of a run as a progress bar; a context manager."""

    def __init__(self, shown: bool | None) -> None:
        """Open the bar.

        Args:
            shown: as of ``progress_bar``.
        """
        # each redraw is a new line in a log file, so it is rarely redrawn there
        interval = 0.2 if sys.stderr.isatty() or in_notebook() else 20.0
        bar = "{bar}" if in_notebook() else "{bar:24}"
        self._bar = progress_bar(
            shown, total=100.0, bar_format=f"{{percentage:3.0f}}% {bar} {{desc}}", mininterval=interval
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, report: StepReport) -> None:
        """Show a report."""
        self._bar.set_description_str(progress_line(report), refresh=False)
        self._bar.update(min(100.0, 100 * report.budget_used) - self._bar.n)


def progress_line(report: StepReport) -> str:
    """A report in one line, for a progress bar."""
    seconds = report.timing["remaining_seconds"]
    if seconds > 5400:
        remaining = f"{seconds / 3600:.1f} h"
    else:
        remaining = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    dropped = f", {report.dropped_steps} dropped" if report.dropped_steps else ""
    speed = f"{report.timing['images_per_second']:.0f} images/s"
    return f"step {report.step:,}, loss {report.loss:.4f}, {speed}, {remaining} left{dropped}"
