"""Giving up a measurement when the run is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Stopping = Callable[[], bool]
"""Whether the run is asked to stop."""


class Stopped(Exception):
    """A measurement was given up because the run is asked to stop."""


def check_stop(stopping: Stopping) -> None:
    """Give up the work of the caller where the run is asked to stop.

    Raises:
        Stopped: ``stopping`` returned true.
    """
    if stopping():
        raise Stopped


def unless_stopped(items: Iterable[T], stopping: Stopping) -> Iterator[T]:
    """The items; ``stopping`` is asked before each.

    Raises:
        Stopped: it returned true.
    """
    iterator = iter(items)
    while True:
        check_stop(stopping)
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item
