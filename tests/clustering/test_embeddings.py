"""Files of the user's own features: each format, and a line for each mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fromnoise.clustering.embeddings import read_embeddings
from fromnoise.utils.errors import UserError

MATRIX = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
INDEX = list(range(6))


def write(path, kind: str):
    """The matrix in a format."""
    columns = {f"f{j}": MATRIX[:, j] for j in range(3)}
    rows = [",".join(map(repr, row)) for row in MATRIX.tolist()]
    if kind == "npy":
        np.save(path / "x.npy", MATRIX)
    elif kind in ("features", "embeddings", "other"):
        arrays: dict[str, Any] = {kind: MATRIX} | ({} if kind == "other" else {"ids": np.arange(6)})
        np.savez(path / "x.npz", **arrays)
    elif kind == "columns":
        pq.write_table(pa.table({"index": INDEX} | columns), path / "x.parquet")
    elif kind == "lists":
        pq.write_table(pa.table({"embedding": MATRIX.tolist()}), path / "x.parquet")
    elif kind == "plain":
        (path / "x.csv").write_text("\n".join(rows) + "\n")
    elif kind == "header":
        lines = ["a,index,b,c", *(f"{r.split(',', 1)[0]},{i},{r.split(',', 1)[1]}" for i, r in enumerate(rows))]
        (path / "x.csv").write_text("\n".join(lines) + "\n")
    return next(path.iterdir())


@pytest.mark.parametrize("kind", ["npy", "features", "embeddings", "other", "columns", "lists", "plain", "header"])
def test_formats(tmp_path, kind):
    """The same matrix from each of them; an index is no feature."""
    found = read_embeddings(write(tmp_path, kind), 6)
    assert found.dtype == torch.float32 and torch.equal(found, torch.from_numpy(MATRIX))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", np.zeros((5, 3)), "5 rows.*6 images"),
        ("x.npy", np.zeros(6), "6 values.*not a matrix"),
        ("x.npy", np.array([["a"] * 3] * 6), "not a matrix"),
        ("x.npy", np.ones((6, 3)), "same features in every row"),
        ("x.npy", np.where(MATRIX == MATRIX[4, 1], np.nan, MATRIX), "nan in row 4, column 1"),
        ("x.npz", {"a": MATRIX, "b": MATRIX}, "a, b.*'features'"),
        ("x.csv", "1,2\n3,x\n" * 3, "'x' in row 1"),
        ("x.csv", "1,2\n3\n" * 3, "2 features in row 0, but 1 in row 1"),
        ("x.csv", "index,f\n" + "".join(f"{5 - i},{i}\n" for i in range(6)), "index 5 in row 0: sort"),
        ("x.csv", "", "not a matrix"),
        ("x.parquet", {"f": [1.0] * 6, "name": ["a"] * 6}, "column name holds string"),
        ("x.parquet", {"f": [[1.0], [1.0, 2.0]] * 3}, "1 features in row 0, but 2 in row 1"),
        ("x.parquet", b"no parquet", "cannot be read as parquet"),
        ("x.txt", "1", "must end in .npy"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    """One line with the name of the file."""
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, dict) and name.endswith("npz"):
        np.savez(path, **content)
    elif isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{message}") as caught:
        read_embeddings(path, 6)
    assert "\n" not in str(caught.value)


def test_objects_and_missing_files(tmp_path):
    """Python objects are not loaded."""
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    for name, message in (("x.npy", "Python objects"), ("y.npy", "No such file"), ("y.csv", "No such file")):
        with pytest.raises(UserError, match=message):
            read_embeddings(tmp_path / name, 1)
