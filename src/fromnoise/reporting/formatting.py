"""Numbers for readers."""

from __future__ import annotations


def format_si(value: float) -> str:
    """Three significant digits with an SI prefix: 1234567 is ``1.23 M``."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def format_duration(seconds: float | None) -> str:
    """Seconds, minutes or hours; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.3g} s"
