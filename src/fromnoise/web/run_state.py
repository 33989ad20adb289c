"""The state of a run, from its files: what its card shows."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fromnoise.run_dir.reports import ROUNDS
from fromnoise.utils.errors import UserError
from fromnoise.utils.locks import lock_holder
from fromnoise.utils.reading import read_bytes, read_text
from fromnoise.web.report_lines import last_report

_MAX_RECIPE = 1 << 20
_LOG_LINES = 12
_LOG_BYTES = 1 << 15


@dataclass(frozen=True)
class RunState:
    """What the card of a run shows.

    Attributes:
        name: of its folder.
        status: running, stopped, finished, imported for a model without a training of its own, or incomplete for a
            folder of reports alone.
        recipe: its name.
        data: SPEC of the data.
        step: optimizer steps done.
        progress: fraction of the budget used, in [0, 1].
        loss: mean training loss of the last report.
        held_out: the last held-out loss of the last report, if it has one.
        images_per_second: of training.
        remaining: seconds.
        preview: name of the newest image of samples, below the run.
        previews: number of previews.
        sampleable: whether there is a model file.
        clustered: whether the page of a clustering is there, which is written after its training.
        warning: a line; empty if there is none.
    """

    name: str
    status: str
    recipe: str = ""
    data: str = ""
    step: int = 0
    progress: float = 0.0
    loss: float | None = None
    held_out: float | None = None
    images_per_second: float | None = None
    remaining: float | None = None
    preview: str | None = None
    previews: int = 0
    sampleable: bool = False
    clustered: bool = False
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """For the browser."""
        return asdict(self)


def run_state(run: Path) -> RunState:
    """Read the state of a run.

    Args:
        run: its folder.
    """
    recipe = recipe_values(run)
    report = last_report(run / "reports.jsonl") or {}
    progress = float(report.get("budget_used") or 0.0)
    timing = report.get("timing") or {}
    running = lock_holder(run) is not None
    images = previews(run)
    trained, sampleable = (run / "recipe.toml").is_file(), (run / "model.safetensors").is_file()
    idle = "stopped" if trained else "imported" if sampleable else "incomplete"
    return RunState(
        name=run.name,
        status="running" if running else "finished" if progress >= 1 else idle,
        recipe=_text(recipe.get("name")),
        data=_text(_table(recipe, "data").get("source")),
        step=report.get("step") or 0,
        progress=progress,
        loss=report.get("loss"),
        held_out=report.get("held_out_loss"),
        images_per_second=timing.get("images_per_second"),
        remaining=timing.get("remaining_seconds") if running else None,
        preview=_newest(run, images),
        previews=len(images),
        sampleable=sampleable,
        clustered=(run / "report.html").is_file(),
        warning=_warning(report),
    )


def _warning(report: dict[str, Any]) -> str:
    dropped = report.get("dropped_steps")
    if not dropped:
        return ""
    return f"{dropped:,} steps were dropped because the loss or the gradient was not finite"


def previews(run: Path) -> list[str]:
    """The names of the previews, in the order of the steps."""
    return sorted(p.name for p in (run / "samples").glob("step_*.png"))


def _newest(run: Path, images: list[str]) -> str | None:
    if (run / "samples.png").is_file():
        return "samples.png"
    if images:
        return f"samples/{images[-1]}"
    return "samples/first_batch.png" if (run / "samples" / "first_batch.png").is_file() else None


def recipe_values(run: Path) -> dict[str, Any]:
    """The tables of recipe.toml; empty if it is missing or damaged."""
    path = run / "recipe.toml"
    try:
        status = path.stat()
    except OSError:
        return {}
    return _read_recipe(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1000)
def _read_recipe(path: Path, changed: int, size: int) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, _MAX_RECIPE))
    except (UserError, ValueError, RecursionError):
        return {}


def is_clustering(run: Path) -> bool:
    """Whether a run is one of ``fromnoise cluster``, which writes its rounds from the beginning."""
    return (run / ROUNDS).is_file()


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def last_lines(path: Path, count: int = _LOG_LINES) -> list[str]:
    """The last lines of a log; empty if it cannot be read."""
    try:
        content = read_bytes(path) if path.is_file() else b""
    except (OSError, UserError):
        return []
    text = content[-_LOG_BYTES:].decode(errors="replace")
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-count:]
