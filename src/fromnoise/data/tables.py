"""Pictures in tables: parquet files and sets of the Hugging Face hub, one row a picture."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from PIL import Image

from fromnoise.data.source import SPLITS, Log, Parts, Source, encode
from fromnoise.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_HOLD = 2 << 30  # bytes of parquet held in memory; more is read from a mapped copy in the cache of `datasets`
_LABEL_NAMES = ("label", "labels", "class", "class_id", "fine_label", "category", "target", "y")
_IMAGE_NAMES = ("image", "img", "picture", "jpg", "png", "webp")
_SPLIT_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(SPLITS)})(?![a-z0-9])")


@final
class TableSource(Source):
    """Encoded pictures in a column of a table."""

    def __init__(
        self,
        table: pa.Table,
        column: str,
        title: str,
        labels: tuple[str, ...] | None = None,
        codes: Sequence[int | None] | None = None,
    ) -> None:
        """Keep the column.

        Args:
            table: the table.
            column: the one with the pictures: bytes, or structures of ``bytes`` and ``path``.
            title: what to call the table in messages.
            labels: names of the classes.
            codes: class of each row.
        """
        super().__init__(labels, codes)
        self._column, self._title = table.column(column), title

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._column)

    def _content(self, i: int) -> bytes | str:
        """The encoded picture, or the path of its file.

        Raises:
            FileNotFoundError: the row holds neither.
        """
        value = self._column[i].as_py()
        content = value if not isinstance(value, dict) else value.get("bytes") or value.get("path")
        if content is None:
            raise FileNotFoundError("the row is empty")
        return content

    def read(self, i: int) -> Image.Image:
        """The opened bytes, decoded when they are used."""
        content = self._content(i)
        return Image.open(content if isinstance(content, str) else io.BytesIO(content))

    def name(self, i: int) -> str:
        """Its row in the table."""
        return f"row {i} of {self._title}"

    def size(self, i: int) -> int:
        """Bytes of the encoded picture."""
        content = self._content(i)
        return Path(content).stat().st_size if isinstance(content, str) else len(content)


def _columns(schema: pa.Schema, title: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """The image column, the label column and the names of the classes.

    They are told by what `datasets` wrote into the table, else by the types and names of the columns.

    Raises:
        UserError: no column can hold images.
    """
    import pyarrow.types as types

    meta = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    kinds = {name: feature for name, feature in meta.items() if isinstance(feature, dict) and name in schema.names}
    marked = [name for name, feature in kinds.items() if feature.get("_type") == "Image"]
    encoded = [
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    encoded.sort(key=lambda name: name.lower() not in _IMAGE_NAMES)
    image = next(iter(marked + encoded), None)
    if image is None:
        raise UserError(f"{title} has no column of images, only {', '.join(schema.names)}")
    classes = [name for name, feature in kinds.items() if feature.get("_type") == "ClassLabel"]
    if classes:
        return image, classes[0], tuple(kinds[classes[0]].get("names") or ()) or None
    plain = [
        field.name
        for field in schema
        if field.name.lower() in _LABEL_NAMES and (types.is_integer(field.type) or types.is_string(field.type))
    ]
    return image, next(iter(plain), None), None


def open_tables(tables: dict[str, pa.Table], title: str, names: tuple[str, ...] | None = None) -> Parts:
    """The splits of one set.

    Args:
        tables: by split, of one schema.
        title: what to call the set in messages.
        names: of the classes, if the table does not say; then its labels are numbers from 0.

    Raises:
        UserError: no column can hold images.
    """
    image, label, known = _columns(next(iter(tables.values())).schema, title)
    known = known or names
    values: dict[str, list[Any]] = {
        s: t.column(label).to_pylist() if label else [None] * len(t) for s, t in tables.items()
    }
    known, codes = encode(values, known)
    return {
        s: TableSource(t, image, title if s == "all" else f"{title} ({s})", known, codes[s]) for s, t in tables.items()
    }


def _by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """Group files by the split that their names or folders tell; all in one if a name tells none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        told = _SPLIT_NAME.findall(name.lower())
        if not told:
            return {"all": list(names)}
        groups.setdefault(SPLITS[told[-1]], []).append(name)
    return groups


def open_parquet(root: Path, names: Sequence[str], log: Log, labels: tuple[str, ...] | None = None) -> Parts:
    """Parquet files: a set with one or several files a split.

    Args:
        root: their folder.
        names: the files, relative to it.
        log: takes a line if the set is too large to be held.
        labels: names of the classes, if the files do not say.

    Raises:
        UserError: a file is broken, pyarrow is missing, or no column can hold images.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("parquet needs pyarrow; run pip install datasets") from None
    title = names[0] if len(names) == 1 else root.name
    paths: dict[str, list[Any]] = {s: [str(root / name) for name in group] for s, group in _by_split(names).items()}
    try:
        image, label, _ = _columns(pq.read_schema(root / names[0]), title)
        wanted = [image] + ([label] if label else [])
        if sum((root / name).stat().st_size for name in names) <= _HOLD:
            tables = {
                s: pa.concat_tables([pq.read_table(p, columns=wanted) for p in group]) for s, group in paths.items()
            }
        else:
            from datasets import Dataset

            log(f"{title}: more than {_HOLD >> 30} GiB, copied once to where it can be read row by row")
            mapped = {s: Dataset.from_parquet(list(group), columns=wanted) for s, group in paths.items()}
            tables = {s: part.data.table for s, part in mapped.items()}
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise UserError(f"'{title}' in '{root}' cannot be read as parquet ({str(error).splitlines()[0]})") from None
    return open_tables(tables, title, labels)


def open_hub(spec: str, log: Log) -> Parts:
    """A set of the Hugging Face hub, downloaded by `datasets` into its own cache.

    Args:
        spec: ``owner/name`` or ``owner/name/config``.
        log: takes a line before a download.

    Raises:
        UserError: it cannot be had, or holds no images.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("sets of the hub need the package datasets; run pip install datasets") from None
    if not spec.strip("/"):
        raise UserError("'hub:' names no set; write hub:owner/name, as in hub:ylecun/mnist")
    repo, config = "/".join(spec.split("/")[:2]), "/".join(spec.split("/")[2:]) or None
    log(f"hub:{spec}: looking in the cache of datasets, then on the hub")
    try:
        found = datasets.load_dataset(repo, config)
    except Exception as error:  # whatever is wrong with the name, the network, the rights or the set
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'hub:{spec}' cannot be had from the Hugging Face hub: {reason}") from None
    return open_tables({SPLITS.get(str(s), str(s)): part.data.table for s, part in found.items()}, f"hub:{spec}")
