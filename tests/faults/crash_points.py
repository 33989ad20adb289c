"""Every operation on the files of a run fails once: the process is killed there, or the disk is full from there on."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Bench
from runs import LIMITS, Counts, Training
from sandbox import violations

WAYS = ("kill", "full")


class Disk:
    """Stands between a process and the files below a folder, and counts what it does with them.

    Operations: opening for writing, writing, fsync, rename, unlink, mkdir. At operation ``at`` the process is killed
    (a write is half done then), or the disk is full: this operation and all later ones that need space raise ENOSPC.
    """

    def __init__(self, folder: Path, at: int | None = None, way: str = "kill", record: Path | None = None) -> None:
        """Nothing is changed before ``install``.

        Args:
            folder: operations elsewhere are not counted.
            at: number of the operation that fails; None for none.
            way: one of ``WAYS``.
            record: a file to which each operation is appended.
        """
        self._folder, self._at, self._way, self._done = str(folder.resolve()), at, way, 0
        self._open, self._os = builtins.open, {name: getattr(os, name) for name in _NAMES}
        self._record = open(record, "a", buffering=1) if record is not None else None

    def install(self) -> None:
        """Replace the functions of this process."""
        builtins.open = io.open = self._opened
        for name in _NAMES:
            setattr(os, name, self._wrap(name))

    def operation(self, name: str, path: str, half: Callable[[], object] | None = None, space: bool = True) -> None:
        """Count an operation, which may end the process or raise OSError.

        Args:
            name: of the operation.
            path: of its file.
            half: does half of it before the process is killed.
            space: whether it needs space on the disk.
        """
        if not os.path.abspath(path).startswith(self._folder):
            return
        now, self._done = self._done, self._done + 1
        if self._record is not None:
            self._record.write(f"{name} {os.path.relpath(path, self._folder)}\n")
        if self._at is None or now < self._at:
            return
        if self._way == "kill":
            if half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        elif space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _wrap(self, name: str) -> Callable[..., Any]:
        original = self._os[name]

        def replaced(target: Any, *args: Any, **options: Any) -> Any:
            writes = name != "open" or bool(args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            path = _path_of(target)
            if writes and path is not None:
                self.operation(name, path, space=name not in ("unlink", "remove"))
            return original(target, *args, **options)

        return replaced

    def _opened(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        writes = isinstance(file, str | os.PathLike) and any(c in mode for c in "wax+")
        if not writes:
            return self._open(file, mode, *args, **options)
        path = os.fspath(file)
        self.operation(f"open({mode})", path)
        opened = self._open(file, mode, *args, **options)
        return _File(opened, path, self) if os.path.abspath(path).startswith(self._folder) else opened


_NAMES = ("open", "replace", "rename", "fsync", "unlink", "remove", "mkdir")


def _path_of(target: Any) -> str | None:
    if isinstance(target, int):
        try:
            return os.readlink(f"/proc/self/fd/{target}")
        except OSError:
            return None
    return os.fspath(target) if isinstance(target, str | os.PathLike) else None


class _File:
    """An open file whose writes are operations of a ``Disk``."""

    def __init__(self, file: Any, path: str, disk: Disk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: Any) -> int:
        """Write, or half of it before a kill."""

        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._disk.operation("write", self._path, half)
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        """Write several lines, each an operation."""
        for line in lines:
            self.write(line)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def crash_points(bench: Bench, seed: int, every: int = 1) -> list[dict[str, Any]]:
    """A run of 6 steps with 3 states, a preview and an evaluation, ended at each of its operations, and resumed.

    Args:
        bench: has the data.
        seed: for the table; nothing is random.
        every: only each ``every``-th operation.
    """
    training = Training(bench, 6)
    place, record = training.new_folder("counted"), bench.folder / "operations"
    outcome = training.start(place, Disk(place, record=record).install).wait()
    assert outcome.code == 0, outcome.err
    names = record.read_text().splitlines()
    rows = []
    for way in WAYS:
        counts = Counts(
            {"kill": "kill at a write, fsync or rename", "full": "disk full from an operation on"}[way], seed
        )
        for at in range(0, len(names), every):
            place = training.new_folder("crashed")
            outcome = training.start(place, Disk(place, at, way).install).wait()
            broken = [] if outcome.code == -signal.SIGKILL and way == "kill" else violations(outcome, LIMITS)
            finished, more = training.finish(place)
            counts.add(f"{at}: {names[at]}", [outcome, finished], broken + more)
        counts.remark = f"{len(names)} operations in the undisturbed run"
        rows.append(counts.row())
    return rows
