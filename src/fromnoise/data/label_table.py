"""A CSV or JSON file beside the images that holds their classes and attributes.

CSV: a header; a column with the file names (``file``, ``file_name``, ``image``, ..., otherwise the first column);
optionally a column with the classes (``label``, ``class``, ...); and columns of numbers, which are attributes. JSON:
the same as a list of objects, or as an object from file to class, to a list of numbers or to an object; or
``{"labels": [[file, class], ...]}`` as in the ``dataset.json`` of StyleGAN.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fromnoise.utils.reading import decoding

TABLE_NAMES = ("labels.csv", "labels.json", "attributes.csv", "attributes.json", "metadata.csv", "dataset.json")
"""Names that a label table can have, the preferred one first."""
_FILE_COLUMNS = ("file_name", "file", "filename", "image", "path", "name")
LABEL_COLUMNS = ("label", "class", "category", "labels")
"""Names of the column of classes."""

Row = Mapping[str, Any]
V = TypeVar("V")


@dataclass(frozen=True)
class LabelTable:
    """Labels and attributes of image files.

    Attributes:
        name: path of the table, ``/``-separated.
        attribute_names: names of the columns of numbers.
        labels: class of each file that has one.
        attributes: numbers of each file that has all of them.
    """

    name: str
    attribute_names: tuple[str, ...]
    labels: dict[str, int | str]
    attributes: dict[str, tuple[float, ...]]

    def label(self, file: str) -> int | str | None:
        """Class of a file; None if it has none."""
        return self._look_up(self.labels, file)

    def attribute_values(self, file: str) -> tuple[float, ...] | None:
        """Attributes of a file; None if it does not have all of them."""
        return self._look_up(self.attributes, file)

    def _look_up(self, values: Mapping[str, V], file: str) -> V | None:
        """Find a file by its path relative to the table's folder, or by an end of that path."""
        folder = PurePosixPath(self.name).parent
        path = PurePosixPath(file)
        relative = path.relative_to(folder) if path.is_relative_to(folder) else path
        ends = ("/".join(relative.parts[i:]) for i in range(len(relative.parts)))
        return next((values[end] for end in ends if end in values), None)


def find_label_table(root: Path, files: Sequence[str], read: Callable[[str], bytes]) -> LabelTable | None:
    """Read the label table among the files of a data set; of several, the one nearest to the root.

    Args:
        root: the folder or archive, for messages.
        files: paths in it, ``/``-separated.
        read: returns the content of a file.

    Raises:
        UnreadableFile: there is a table, but it cannot be parsed.
    """
    tables = [f for f in files if PurePosixPath(f).name.lower() in TABLE_NAMES]
    if not tables:
        return None
    name = min(tables, key=lambda f: (f.count("/"), TABLE_NAMES.index(PurePosixPath(f).name.lower())))
    with decoding(root / name, "a label table", "correct or remove it"):
        text = read(name).decode("utf-8-sig")
        rows = _parse_json(json.loads(text)) if name.lower().endswith(".json") else _parse_csv(text)
        return _make_table(name, rows)


def _parse_csv(text: str) -> Mapping[str, Row]:
    table = csv.DictReader(io.StringIO(text))
    columns = list(table.fieldnames or [])
    if len(columns) < 2:
        raise ValueError("it has no header of at least two columns")
    key = next((c for n in _FILE_COLUMNS for c in columns if c.strip().lower() == n), columns[0])
    rows = {str(row[key]): {c: row[c] for c in columns if c != key} for row in table}
    if len(columns) == 2:  # a single other column is the class, unless it holds numbers that are not whole
        other = next(c for c in columns if c != key)
        if not _all_numbers([row[other] for row in rows.values()]) or all(_is_integer(r[other]) for r in rows.values()):
            return {file: {"label": row[other]} for file, row in rows.items()}
    return rows


def _parse_json(content: Any) -> Mapping[str, Row]:
    if isinstance(content, dict) and isinstance(content.get("labels"), list):
        content = dict(content["labels"])
    if isinstance(content, list):
        key = next(n for n in _FILE_COLUMNS if n in content[0])
        return {str(row[key]): {k: v for k, v in row.items() if k != key} for row in content}
    rows: dict[str, Row] = {}
    for file, value in content.items():
        if isinstance(value, list):
            value = {str(i): v for i, v in enumerate(value)}
        rows[str(file)] = value if isinstance(value, dict) else {"label": value}
    return rows


def _make_table(name: str, rows: Mapping[str, Row]) -> LabelTable:
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    label = next((c for n in LABEL_COLUMNS for c in columns if c.strip().lower() == n), None)
    numeric = [c for c in columns if c != label and _all_numbers([row.get(c) for row in rows.values()])]
    labels: dict[str, int | str] = {}
    if label is not None:
        labels = {file: parse_class(row[label]) for file, row in rows.items() if row.get(label) not in (None, "")}
    attributes: dict[str, tuple[float, ...]] = {}
    for file, row in rows.items():
        if numeric and all(row.get(c) not in (None, "") for c in numeric):
            attributes[file] = tuple(float(row[c]) for c in numeric)
    return LabelTable(name, tuple(c.strip() for c in numeric), labels, attributes)


def parse_class(value: Any) -> int | str:
    """A class as a whole number if it is one, otherwise as a word."""
    return int(value) if _is_integer(value) else str(value)


def _is_integer(value: Any) -> bool:
    text = str(value).strip().removeprefix("-")
    return text.isdecimal() and len(text) < 19  # within 64 bits


def _all_numbers(values: Sequence[Any]) -> bool:
    """Whether there are values and all of them are finite numbers; empty cells are ignored."""
    try:
        numbers = [float(v) for v in values if v not in (None, "")]
    except (TypeError, ValueError):
        return False
    return bool(numbers) and all(map(isfinite, numbers))
