"""Feature vectors of images that the user has computed elsewhere: a matrix in a file, a row for each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.formats.numpy_files import map_npy, read_npz
from fromnoise.utils.errors import UserError, printable
from fromnoise.utils.reading import check_size, decoding, limits, read_bytes, read_text

_NPZ_NAMES = ("features", "embeddings", "arr_0")
_INDEX = "index"  # a column that says which image a row is of


def is_embeddings_file(path: str | Path) -> bool:
    """Whether a name is that of a file of features, by its suffix."""
    return Path(path).suffix.lower() in _READERS


def read_embeddings(path: str | Path, images: int) -> Tensor:
    """Read feature vectors, float32 (N, D); row i belongs to image i of the data set.

    - .npy: a matrix (N, D);
    - .npz: the array ``features`` or ``embeddings``, or the only one;
    - .parquet: columns of numbers, or one column of lists of numbers;
    - .csv: numbers, with or without a header.

    A column ``index`` must be 0, 1, 2 and so on, and is no feature.

    Args:
        path: of the file.
        images: N.

    Raises:
        UserError: the file cannot be read, has another number of rows or no numbers in some places.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path} is no file of features: it must end in {', '.join(_READERS)}")
    array = read(path)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiub":
        shape = "x".join(map(str, array.shape)) or "a single"
        raise UserError(f"{path} holds {shape} values of type {array.dtype}, not a matrix with a row for each image")
    if len(array) != images:
        raise UserError(
            f"{path} has {len(array):,} rows, and the data set {images:,} images: row i must belong to image i"
        )
    values = np.array(array, np.float32)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(f"{path} holds {values[row, column]} in row {row}, column {column}, counted from 0: no feature")
    if (values == values[0]).all():
        raise UserError(f"{path} has the same features in every row: they tell no image from another")
    return torch.from_numpy(values)


def _from_npz(path: Path) -> np.ndarray:
    arrays = read_npz(path)
    key = next((k for k in _NPZ_NAMES if k in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if key is None:
        raise UserError(f"{path} holds the arrays {', '.join(arrays) or '(none)'}: name the one of features 'features'")
    return arrays[key]


def _from_parquet(path: Path) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with decoding(path, "parquet"):
        with pq.ParquetFile(pa.BufferReader(read_bytes(path))) as file:
            meta = file.metadata
            check_size(path, 8 * meta.num_rows * meta.num_columns, limits().array_bytes)
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            unpacked = (g.column(i).total_uncompressed_size for g in groups for i in range(g.num_columns))
            check_size(path, sum(unpacked), limits().array_bytes)
            table = file.read()
        columns = {name: table.column(name) for name in table.column_names}
        index = columns.pop(_INDEX, None)
        if index is not None:
            _check_index(path, index.to_pylist())
        lists = [c for c in columns.values() if pa.types.is_list(c.type) or pa.types.is_fixed_size_list(c.type)]
        if lists and len(columns) == 1:
            return _of_equal_length(path, lists[0].to_pylist())
        for name, column in columns.items():
            if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
                raise UserError(f"{path}: column {printable(name)} holds {column.type}, not numbers; leave it out")
        return np.stack([c.to_numpy().astype(np.float64) for c in columns.values()], 1) if columns else np.empty((0, 0))


def _of_equal_length(path: Path, rows: Sequence[Sequence[float] | None]) -> np.ndarray:
    if not rows:
        return np.empty((0, 0))
    lengths = [len(row) if row is not None else 0 for row in rows]
    wrong = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if wrong is not None:
        raise UserError(f"{path} has {lengths[0]} features in row 0, but {lengths[wrong]} in row {wrong}")
    return np.array(rows, np.float64).reshape(len(rows), -1)


def _from_csv(path: Path) -> np.ndarray:
    with decoding(path, ".csv"):
        rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
    if rows and not all(map(_is_number, rows[0])):
        names, rows = [cell.strip() for cell in rows[0]], rows[1:]
        if _INDEX in names:
            place = names.index(_INDEX)
            _check_index(path, [row[place] if len(row) > place else "" for row in rows])
            rows = [row[:place] + row[place + 1 :] for row in rows]
    try:
        return _of_equal_length(path, [[float(cell) for cell in row] for row in rows])
    except ValueError:
        found = ((i, cell) for i, row in enumerate(rows) for cell in row if not _is_number(cell))
        i, cell = next(found)
        raise UserError(f"{path} holds {printable(cell)!r} in row {i}, which is not a number") from None


def _check_index(path: Path, index: Sequence[object]) -> None:
    for i, found in enumerate(index):
        if str(found).strip() != str(i):
            raise UserError(f"{path} has index {printable(str(found))} in row {i}: sort the rows by index, from 0")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": map_npy,
    ".npz": _from_npz,
    ".parquet": _from_parquet,
    ".csv": _from_csv,
}
