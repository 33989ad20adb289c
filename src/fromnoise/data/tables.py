"""Images in a column of a table, one row per image."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from PIL import Image

from fromnoise.data.decoding import open_encoded
from fromnoise.data.source import Source, Splits, encode_labels
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import limits, printable, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
"""Names of image columns that are preferred to others."""
LABEL_COLUMNS = ("label", "labels", "class", "class_id", "fine_label", "category", "target", "y")
"""Names of label columns."""
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}  # of formats whose names are no suffixes


@final
class TableSource(Source):
    """Encoded images in a column of a table."""

    def __init__(
        self,
        table: pa.Table,
        column: str,
        title: str,
        class_names: tuple[str, ...] | None = None,
        labels: Sequence[int | None] | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        """Use a column of a table.

        Args:
            table: the table.
            column: name of the image column: bytes, or structures of ``bytes`` and ``path``.
            title: name of the table in messages.
            class_names: names of the classes.
            labels: class of each row.
            folders: paths in the table are relative to the first, and lead to files in one of them.
        """
        super().__init__(class_names, labels)
        self._column, self._title = table.column(column), title
        self._folders = [folder.resolve() for folder in folders]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._column)

    def _content(self, i: int) -> bytes | Path:
        """The encoded image, or the path of its file.

        Raises:
            FileNotFoundError: the row has neither.
            PermissionError: the path leads out of the data set's folders.
        """
        value = self._column[i].as_py()
        content = value if not isinstance(value, dict) else value.get("bytes") or value.get("path")
        if isinstance(content, bytes):
            return content
        if not isinstance(content, str):
            raise FileNotFoundError("the row is empty")
        path = Path(*self._folders[:1], content).resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise PermissionError(f"its path {content!r} leads out of the data set's folder")
        return path

    def read(self, i: int) -> Image.Image:
        """Open the encoded image; it is decoded when the pixels are used."""
        content = self._content(i)
        return open_encoded(content if isinstance(content, Path) else io.BytesIO(content))

    def encoded(self, i: int) -> tuple[str, bytes]:
        """See ``Source``."""
        content = self._content(i)
        if isinstance(content, Path):
            return content.suffix.lower(), read_bytes(content, limits().image_bytes)
        return encoded_suffix(content), content

    def name(self, i: int) -> str:
        """Number of the row."""
        return f"row {i} of {self._title}"

    def file_size(self, i: int) -> int:
        """Bytes of the encoded image."""
        content = self._content(i)
        return content.stat().st_size if isinstance(content, Path) else len(content)


def encoded_suffix(content: bytes) -> str:
    """The suffix of a file with the content of an encoded image."""
    with open_encoded(io.BytesIO(content)) as image:
        kind = str(image.format)
    return f".{_SUFFIXES.get(kind, kind.lower())}"


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used.

    Attributes:
        image: name of the image column.
        label: name of the label column; None if there is none.
        class_names: names of the classes; None if the table does not have them.
    """

    image: str
    label: str | None
    class_names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, title: str) -> Columns:
    """Find the image column and the label column.

    They are taken from the features that `datasets` writes into a table's metadata, otherwise they are found by the
    types and names of the columns.

    Raises:
        UserError: no column can hold images.
    """
    import pyarrow.types as types

    features = {name: feature for name, feature in _features(schema).items() if name in schema.names}
    marked = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    encoded = [
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    encoded.sort(key=lambda name: name.lower() not in IMAGE_COLUMNS)
    image = next(iter(marked + encoded), None)
    if image is None:
        raise UserError(
            f"{title} has no column of images, only {', '.join(schema.names)}; store encoded images as bytes"
        )
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if classes:
        names = features[classes[0]].get("names")
        class_names = tuple(map(printable, map(str, names))) if isinstance(names, list) else ()
        return Columns(image, classes[0], class_names or None)
    plain = [
        field.name
        for field in schema
        if field.name.lower() in LABEL_COLUMNS and (types.is_integer(field.type) or types.is_string(field.type))
    ]
    return Columns(image, next(iter(plain), None), None)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The features that `datasets` writes into a table's metadata, by column; damaged metadata have none."""
    try:
        meta = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in meta.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def table_splits(
    tables: Mapping[str, pa.Table],
    title: str,
    class_names: tuple[str, ...] | None = None,
    folders: Sequence[Path] = (),
) -> Splits:
    """Make a data set of tables.

    Args:
        tables: by split, with one schema.
        title: name of the data set in messages.
        class_names: names of the classes, used if the tables do not have them; the labels are then class indices.
        folders: as of ``TableSource``.

    Raises:
        UserError: no column can hold images.
    """
    columns = find_columns(next(iter(tables.values())).schema, title)
    labels: dict[str, list[Any]] = {
        s: t.column(columns.label).to_pylist() if columns.label else [None] * len(t) for s, t in tables.items()
    }
    names, encoded = encode_labels(labels, columns.class_names or class_names)
    return {
        s: TableSource(t, columns.image, title if s == "all" else f"{title} ({s})", names, encoded[s], folders)
        for s, t in tables.items()
    }
