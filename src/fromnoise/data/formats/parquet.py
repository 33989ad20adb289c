"""Encoded images in parquet files, one row per image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from fromnoise.data.format import Format
from fromnoise.data.source import SPLITS, Log, Splits
from fromnoise.data.tables import find_columns, table_splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError

MEMORY_LIMIT = 2 << 30
"""Bytes of parquet files that are read into memory; larger ones are read from a mapped copy in the cache of
`datasets`."""
_SPLIT_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(SPLITS)})(?![a-z0-9])")


@register("format", "parquet")
@final
class ParquetFile(Format):
    """Encoded images in parquet files, one row per image; a data set can have several files per split."""

    suffixes = (".parquet",)
    several_files = True

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``."""
        return open_parquet(root, names, log)


def _group_by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """Group files by the split in their names or folders; all in one group if a name has none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT_NAME.findall(name.lower())
        if not found:
            return {"all": list(names)}
        groups.setdefault(SPLITS[found[-1]], []).append(name)
    return groups


def open_parquet(root: Path, names: Sequence[str], log: Log, class_names: tuple[str, ...] | None = None) -> Splits:
    """Open parquet files as one data set.

    Args:
        root: their folder.
        names: the files, relative to it.
        log: takes a line if the data set is copied because it is too large for the memory.
        class_names: names of the classes, used if the files do not have them.

    Raises:
        UserError: a file is damaged, pyarrow is missing, or no column can hold images.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("parquet files need pyarrow; run pip install datasets") from None
    title = names[0] if len(names) == 1 else root.name
    paths: dict[str, list[Any]] = {
        s: [str(root / name) for name in group] for s, group in _group_by_split(names).items()
    }
    try:
        columns = find_columns(pq.read_schema(root / names[0]), title)
        wanted = [columns.image] + ([columns.label] if columns.label else [])
        if sum((root / name).stat().st_size for name in names) <= MEMORY_LIMIT:
            tables = {
                s: pa.concat_tables([pq.read_table(p, columns=wanted) for p in group]) for s, group in paths.items()
            }
        else:
            from datasets import Dataset

            log(f"{title}: larger than {MEMORY_LIMIT >> 30} GiB, copied once to a file that can be read row by row")
            mapped = {s: Dataset.from_parquet(list(group), columns=wanted) for s, group in paths.items()}
            tables = {s: part.data.table for s, part in mapped.items()}
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{title}' in '{root}' cannot be read as parquet ({reason}); download it again") from None
    return table_splits(tables, title, class_names)
