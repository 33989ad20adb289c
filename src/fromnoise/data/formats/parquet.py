"""Encoded images in parquet files, one row per image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from fromnoise.data.format import Format
from fromnoise.data.source import Log, Splits, group_by_split
from fromnoise.data.tables import find_columns, table_splits
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import check_expansion, check_regular, decoding, limits

MEMORY_LIMIT = 2 << 30
"""Bytes of parquet files that are read into memory; larger ones are read from a mapped copy in the cache of
`datasets`."""
_COUNTED_TOGETHER = 64  # rows


@register("format", "parquet")
@final
class ParquetFile(Format):
    """Encoded images in parquet files, one row per image; a data set can have several files per split."""

    suffixes = (".parquet",)
    several_files = True

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``."""
        return open_parquet(root, names, log)


def open_parquet(root: Path, names: Sequence[str], log: Log, class_names: tuple[str, ...] | None = None) -> Splits:
    """Open parquet files as one data set.

    Args:
        root: their folder.
        names: the files, relative to it.
        log: takes a line if the data set is copied because it is too large for the memory.
        class_names: names of the classes, used if the files do not have them.

    Raises:
        UserError: a file is damaged, no column can hold images, or the files are large and datasets is not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    title = names[0] if len(names) == 1 else root.name
    paths: dict[str, list[Any]] = {
        s: [str(root / name) for name in group] for s, group in group_by_split(names).items()
    }
    with decoding(title, "parquet", "download it again"):
        for name in names:
            check_regular(root / name, sys.maxsize)
        columns = find_columns(pq.read_schema(root / names[0]), title)
        wanted = [columns.image] + ([columns.label] if columns.label else [])
        if sum((root / name).stat().st_size for name in names) <= MEMORY_LIMIT:
            for name in names:
                _check_expansion(root / name, columns.image)
            tables = {
                s: pa.concat_tables([pq.read_table(p, columns=wanted) for p in group]) for s, group in paths.items()
            }
        else:
            try:
                from datasets import Dataset
            except ImportError:
                raise UserError(
                    f"{title} is larger than {MEMORY_LIMIT >> 30} GiB, which needs the package datasets: "
                    "pip install 'fromnoise[datasets]'"
                ) from None
            log(f"{title}: larger than {MEMORY_LIMIT >> 30} GiB, copied once to a file that can be read row by row")
            mapped = {s: Dataset.from_parquet(list(group), columns=wanted) for s, group in paths.items()}
            tables = {s: part.data.table for s, part in mapped.items()}
        return table_splits(tables, title, class_names, [root])


def _check_expansion(path: Path, column: str) -> None:
    """Check the size of a column's values, unpacked.

    A dictionary-encoded column can repeat one large value; it is then read in small batches and counted.

    Raises:
        UnreadableFile: it is beyond the limits.
    """
    import pyarrow.parquet as pq

    packed = path.stat().st_size
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        chunks = [(g, g.column(i)) for g in groups for i in range(g.num_columns)]
        chunks = [(g, c) for g, c in chunks if c.path_in_schema.split(".")[0] == column]
        check_expansion(path, packed, sum(c.total_uncompressed_size for _, c in chunks))
        most = sum(c.total_uncompressed_size * (g.num_rows if c.has_dictionary_page else 1) for g, c in chunks)
        if most > limits().expansion_free:
            size = 0
            for batch in file.iter_batches(_COUNTED_TOGETHER, columns=[column]):
                size += batch.nbytes
                check_expansion(path, packed, size)
