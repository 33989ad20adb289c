"""A way to call the command line in this process, and flags that make any run tiny."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fromnoise.cli import main

SMALL = [
    *("--network.width", "8", "--network.multipliers", "[1]", "--network.groups", "4"),
    *("--network.attention_resolutions", "[]"),
    *("--network.heads", "1", "--network.middle_attention", "false", "--train.batch", "8", "--train.held_out", "8"),
    *("--train.evaluations", "1", "--train.previews", "0", "--sample.count", "2", "--sample.steps", "2"),
]


@dataclass(frozen=True)
class Said:
    """What a call left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


Call = Callable[..., Said]


def call(*words: object) -> Said:
    """``fromnoise WORDS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(w) for w in words])
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
    return Said(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content; None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
