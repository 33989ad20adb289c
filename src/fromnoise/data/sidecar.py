"""A table beside the images: labels and numbers of each, in a CSV or JSON file.

CSV: a header, a column that names the files (``file``, ``file_name``, ``image``, ... or else the first), perhaps one
that names the class (``label``, ``class``), and columns of numbers, which are attributes. JSON: the same as a list of
objects, or as an object from file to class, to a list of numbers, or to an object; or ``{"labels": [[file, class],
...]}`` as StyleGAN's ``dataset.json``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from fromnoise.utils.errors import UserError

NAMES = ("labels.csv", "labels.json", "attributes.csv", "attributes.json", "metadata.csv", "dataset.json")
_FILE = ("file_name", "file", "filename", "image", "path", "name")
_LABEL = ("label", "class", "category", "labels")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sidecar:
    """What a table says of files.

    Attributes:
        name: of the table.
        attributes: names of its columns of numbers.
        labels: class of each file that has one.
        values: the numbers of each file that has them all.
    """

    name: str
    attributes: tuple[str, ...]
    labels: dict[str, int | str]
    values: dict[str, tuple[float, ...]]

    def find(self, known: Mapping[str, Any], file: str) -> Any:
        """What is known of a file: by its path from the table on, by the end of its path, or None."""
        here = PurePosixPath(self.name).parent
        path = PurePosixPath(file)
        own = path.relative_to(here) if path.is_relative_to(here) else path
        return next((known[k] for i in range(len(own.parts)) if (k := "/".join(own.parts[i:])) in known), None)


def find(files: Sequence[str], read: Callable[[str], bytes]) -> Sidecar | None:
    """The table among the files of a set, the one nearest to its root.

    Args:
        files: ``/``-separated.
        read: gives the content of one.

    Raises:
        UserError: there is one, and it cannot be understood.
    """
    tables = [f for f in files if PurePosixPath(f).name.lower() in NAMES]
    if not tables:
        return None
    name = min(tables, key=lambda f: (f.count("/"), NAMES.index(PurePosixPath(f).name.lower())))
    try:
        text = read(name).decode("utf-8-sig")
        rows = _json(json.loads(text)) if name.lower().endswith(".json") else _csv(text)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, csv.Error) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the table {name} beside the images cannot be understood ({why})") from None
    return _sidecar(name, rows)


def _csv(text: str) -> Mapping[str, Row]:
    table = csv.DictReader(io.StringIO(text))
    heads = list(table.fieldnames or [])
    if len(heads) < 2:
        raise ValueError("it has no header of at least two columns")
    key = next((h for n in _FILE for h in heads if h.strip().lower() == n), heads[0])
    rows = {str(row[key]): {h: row[h] for h in heads if h != key} for row in table}
    if len(heads) == 2:  # the one thing that is said of a file is its class, unless it is a number that is none
        other = next(h for h in heads if h != key)
        if not _numbers([row[other] for row in rows.values()]) or all(_whole(row[other]) for row in rows.values()):
            return {file: {"label": row[other]} for file, row in rows.items()}
    return rows


def _json(content: Any) -> Mapping[str, Row]:
    if isinstance(content, dict) and isinstance(content.get("labels"), list):
        content = {file: told for file, told in content["labels"]}
    if isinstance(content, list):
        key = next(n for n in _FILE if n in content[0])
        return {str(row[key]): {k: v for k, v in row.items() if k != key} for row in content}
    rows: dict[str, Row] = {}
    for file, told in content.items():
        if isinstance(told, list):
            told = {str(i): v for i, v in enumerate(told)}
        rows[str(file)] = told if isinstance(told, dict) else {"label": told}
    return rows


def _sidecar(name: str, rows: Mapping[str, Row]) -> Sidecar:
    heads = list(dict.fromkeys(h for row in rows.values() for h in row))
    label = next((h for n in _LABEL for h in heads if h.strip().lower() == n), None)
    numbers = [h for h in heads if h != label and _numbers([row.get(h) for row in rows.values()])]
    labels: dict[str, int | str] = {}
    if label is not None:
        labels = {file: _class(row[label]) for file, row in rows.items() if row.get(label) not in (None, "")}
    values: dict[str, tuple[float, ...]] = {}
    for file, row in rows.items():
        if numbers and all(row.get(h) not in (None, "") for h in numbers):
            values[file] = tuple(float(row[h]) for h in numbers)
    return Sidecar(name, tuple(h.strip() for h in numbers), labels, values)


def _class(value: Any) -> int | str:
    return int(value) if _whole(value) else str(value)


def _whole(value: Any) -> bool:
    return str(value).strip().lstrip("-").isdecimal()


def _numbers(values: Sequence[Any]) -> bool:
    """Whether all that is there is finite numbers, and something is."""
    try:
        found = [float(v) for v in values if v not in (None, "")]
    except (TypeError, ValueError):
        return False
    return bool(found) and all(map(isfinite, found))
