"""The folders that the user named, and what in them a request may name.

A request names a run or a data set by its name, which is looked up in a list of what is there; it never gives a path.
Files of a run are read inside of its folder only, also where links lead out of it.
"""

from __future__ import annotations

from pathlib import Path

from fromnoise.utils.errors import UserError
from fromnoise.web.settings import Settings

RUN_FILES = ("recipe.toml", "model.safetensors", "reports.jsonl")
FILE_TYPES = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".npz": "application/octet-stream",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".toml": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",  # the log
}
"""Types of the files of a run that are served, by suffix."""
_DATA_SUFFIXES = (".zip", ".npz", ".npy", ".parquet")
_LONGEST_LIST = 1000


class NotFound(Exception):
    """There is no such run, file or data set in the folders that were named."""


class Folders:
    """The folders that the user named."""

    def __init__(self, settings: Settings) -> None:
        """Look into folders.

        Args:
            settings: names them.
        """
        self.settings = settings

    def runs(self) -> list[Path]:
        """The runs, the one that was changed last first."""
        folder = self.settings.runs
        if not folder.is_dir():
            return []
        found = [p for p in folder.iterdir() if self._is_run(p) and self.settings.demo in (None, p.name)]
        return sorted(found, key=_changed, reverse=True)[:_LONGEST_LIST]

    def _is_run(self, path: Path) -> bool:
        try:
            return (
                path.is_dir()
                and not path.name.startswith(".")
                and self._inside(path, self.settings.runs)
                and any((path / name).is_file() for name in RUN_FILES)
            )
        except OSError:
            return False

    def run(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            NotFound: there is no run of this name.
        """
        for path in self.runs():
            if path.name == name:
                return path
        raise NotFound(f"there is no run {name!r}")

    def file(self, run: Path, name: str) -> Path:
        """A file of a run.

        Raises:
            NotFound: it is not there, leads out of the run, or is of a type that is not served.
        """
        parts = name.split("/")
        bad = any(part in ("", ".", "..") or part.startswith(".") or "\\" in part or "\0" in part for part in parts)
        path = run.joinpath(*parts) if not bad else run
        try:
            if bad or path.suffix.lower() not in FILE_TYPES or not path.is_file() or not self._inside(path, run):
                raise NotFound(f"{run.name} has no file {name!r}")
        except (OSError, ValueError):  # a name that is too long
            raise NotFound(f"{run.name} has no such file") from None
        return path

    def report(self, run: Path, name: str) -> Path:
        """The HTML page of an evaluation or a clustering in a run.

        Raises:
            NotFound: there is none.
        """
        for path in self.reports(run):
            if path.parent.name == name or (name == "clusters" and path.parent == run):
                return path
        raise NotFound(f"{run.name} has no report {name!r}")

    def reports(self, run: Path) -> list[Path]:
        """The HTML pages of the evaluations in a run, and of its clustering."""
        found = [run / "report.html", *sorted(run.glob("*/report.html"))]
        return [p for p in found if p.is_file() and self._inside(p, run)]

    def new_run(self, name: str) -> Path:
        """The folder of a run that is to be started.

        Raises:
            UserError: the name is empty, too long, or not one of a folder.
        """
        if not name or len(name) > 80 or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
            raise UserError(f"{name[:80]!r} cannot be the name of a run: use letters, digits, - and _")
        return self.settings.runs / name

    def data_sets(self) -> dict[str, Path]:
        """The data sets in the folders that were named for data, by the names under which they are offered."""
        found: dict[str, Path] = {}
        for folder in self.settings.data:
            found[folder.name or str(folder)] = folder
            try:
                inside = sorted(folder.iterdir())
            except OSError:
                continue
            for path in inside[:_LONGEST_LIST]:
                fits = path.is_dir() or path.suffix.lower() in _DATA_SUFFIXES
                if fits and not path.name.startswith(".") and self._inside(path, folder):
                    found[f"{folder.name}/{path.name}"] = path
        return found

    def _inside(self, path: Path, folder: Path) -> bool:
        """Whether a path, with its links followed, is inside of a folder."""
        return path.resolve().is_relative_to(folder.resolve())


def _changed(run: Path) -> float:
    for name in reversed(RUN_FILES):
        try:
            return (run / name).stat().st_mtime
        except OSError:
            continue
    return 0.0
