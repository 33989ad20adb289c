"""A case of the campaign: files, a command line, and the rule that every command keeps."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from materials import make_materials
from sandbox import Limits, Outcome, run, violations

DATA_LIMITS = Limits(cpu_seconds=10, memory_mb=1024)
COMMAND_LIMITS = Limits(seconds=4, memory_mb=2048, interrupt=True)
"""A valid command may take long; then it must end when the user interrupts it."""


@dataclass(frozen=True)
class Case:
    """A command line with the files that it reads.

    Attributes:
        kind: ``header``, ``command``, or the format of the mutated file.
        number: from which, with the seed, it was generated.
        words: of the command line; paths are relative to the folder of the case.
        files: content by path, written into the folder.
        uses: parts of the materials that are copied into the folder first.
        names: one of them must stand in the message if the command exits with 2; none: any message.
        same: files that must be as those of the undisturbed command if it exits with 0.
    """

    kind: str
    number: int
    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        """Limits of its resources."""
        return COMMAND_LIMITS if self.kind == "command" or self.words[0] == "cluster" else DATA_LIMITS

    def to_json(self) -> str:
        """A text from which ``from_json`` makes the same case."""
        files = {name: base64.b85encode(zlib.compress(data, 9)).decode() for name, data in self.files.items()}
        return json.dumps(self.__dict__ | {"files": files}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Case:
        """The case of a text."""
        values = json.loads(text)
        values.pop("why", None)  # a remark for the reader
        files = {name: zlib.decompress(base64.b85decode(data)) for name, data in values.pop("files").items()}
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values | lists, files=files)


@dataclass(frozen=True)
class Result:
    """A case that ran.

    Attributes:
        case: which.
        outcome: what its command left.
        broken: what it did that no command may do; empty if it kept the rule.
    """

    case: Case
    outcome: Outcome
    broken: list[str]

    def describe(self) -> str:
        """The case and what went wrong, for a person."""
        tail = self.outcome.err.strip()[-1500:]
        return f"{self.case.kind} {self.case.number}: {', '.join(self.broken)}\n  {self.case.words}\n{tail}\n"


class Bench:
    """A folder with materials in which cases run."""

    def __init__(self, folder: Path) -> None:
        """Make the materials.

        Args:
            folder: an empty folder.
        """
        self.folder = folder
        self.materials = make_materials(folder / "materials")
        self._undisturbed: dict[tuple[str, ...], dict[str, bytes]] = {}

    def place(self, name: str, case: Case, mutated: bool = True) -> Path:
        """A folder with the files of a case."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for part in case.uses:
            source = self.materials / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / part)
        for path, data in case.files.items() if mutated else ():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data)
        return place

    def run(self, case: Case) -> Result:
        """Run a case and check the rule."""
        place = self.place("case", case)
        outcome = run(case.words, place, case.limits)
        broken = violations(outcome, case.limits, case.names)
        if outcome.memory_mb > case.limits.memory_mb:
            broken.append(f"{outcome.memory_mb:.0f} MB of memory")
        if case.same and outcome.code == 0:
            expected = self._expected(case)
            broken += [f"another {name}" for name in case.same if _content(place / name) != expected[name]]
        left = [str(p.relative_to(place)) for p in place.rglob(".*.tmp")]
        if left:
            broken.append(f"left {left[0]}")
        return Result(case, outcome, broken)

    def _expected(self, case: Case) -> dict[str, bytes]:
        if case.words not in self._undisturbed:
            place = self.place("undisturbed", case, mutated=False)
            outcome = run(case.words, place, case.limits)
            assert outcome.code == 0, outcome.err
            self._undisturbed[case.words] = {name: _content(place / name) for name in case.same}
        return self._undisturbed[case.words]


def _content(path: Path) -> bytes:
    """Of a file; the tensors alone of a checkpoint, whose header holds times."""
    if not path.exists():
        return b""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :] if path.suffix == ".safetensors" else data


Generator = Callable[[Bench, int, int], Case]
"""``generator(bench, seed, number)`` makes a case."""
