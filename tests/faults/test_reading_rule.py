"""Every file that the package has not just written is read through ``utils/reading.py`` (review C6, C7)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fromnoise"
READERS = {
    *("open", "os.open", "io.open", "np.load", "numpy.load", "np.fromfile", "np.memmap", "json.load", "tomllib.load"),
    *("Image.open", "zipfile.ZipFile", "tarfile.open", "gzip.open", "loadmat"),
    *("safe_open", "load_file", "torch.load", "pq.ParquetFile", "pq.read_table", "pq.read_schema"),
    *("np.genfromtxt", "np.loadtxt", "pd.read_csv", "csv.read_csv"),
}
METHODS = {"read_text", "read_bytes"}
ALLOWED = {
    ("utils/reading.py", "os.open"): "this is the module",
    ("utils/files.py", "open"): "writes",
    ("utils/files.py", "os.open"): "appends to regular files, and flushes folders",
    ("utils/locks.py", "os.open"): "locks",
    ("utils/construction.py", ".read_text"): "the kernel's limit of memory",
    ("config/files.py", ".read_text"): "a recipe of the package",
    ("networks/kernels/build.py", "open"): "/proc",
    ("networks/kernels/build.py", "os.open"): "the private cache, checked there; networks import torch alone",
    ("networks/kernels/build.py", ".read_bytes"): "a source of the package, and what the compiler has just written",
    ("networks/kernels/build.py", "Path.open"): "to flush what the compiler has just written",
    ("interop/pickles.py", "zipfile.ZipFile"): "after open_regular or check_regular",
    ("interop/pickles.py", "torch.load"): "after check_regular, with weights_only=True, by the verb import alone",
    ("interop/to_onnx.py", ".read_bytes"): "a program of the package, and the network that torch has just written",
    ("interop/to_diffusers.py", ".read_bytes"): "files of the package",
    ("interop/onnx_runner/sample.py", ".read_text"): "a program that runs without fromnoise, on its own files",
    ("trackers/wandb.py", ".read_text"): "the id that it has written, if that is a regular file",
    ("cli/__init__.py", "os.open"): "/dev/null",
    ("web/processes.py", "open"): "writes what a started command prints",
    ("reporting/plots.py", "Image.open"): "bytes of a figure",
    ("data/decoding.py", "Image.open"): "after check_regular, within the limits of pixels",
    ("data/formats/numpy_files.py", "np.load"): "mapped, after open_regular and a check of the header",
    ("data/formats/numpy_files.py", "zipfile.ZipFile"): "of a file that open_regular opened",
    ("data/formats/zip_archive.py", "zipfile.ZipFile"): "of a file that open_regular opened",
    ("clustering/embeddings.py", "pq.ParquetFile"): "of bytes by read_bytes, after a check of the unpacked size",
    ("data/formats/parquet.py", "pq.ParquetFile"): "after check_regular",
    ("data/formats/parquet.py", "pq.read_schema"): "after check_regular",
    ("data/formats/parquet.py", "pq.read_table"): "after check_regular and a check of the unpacked size",
    ("data/shards/remote_tables.py", "pq.ParquetFile"): "of a file of a store; its rows are counted as they unpack",
    ("data/shards/remote_tables.py", "open"): "writes",
    ("data/named/flowers102.py", "tarfile.open"): "a download with a verified digest",
    ("data/named/flowers102.py", "loadmat"): "a download with a verified digest",
    ("data/named/flowers102_official.py", "loadmat"): "a download with a verified digest",
}


def reads(source: str) -> set[str]:
    """The calls of a module that open files, by their names; methods begin with a point."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in READERS or name.removeprefix("PIL.") in READERS:
            found.add(name.removeprefix("PIL."))
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found.add(f".{node.func.attr}")
        if isinstance(node.func, ast.Attribute) and node.func.attr == "open" and _is_path_open(node):
            found.add("Path.open")
    return found


def _is_path_open(node: ast.Call) -> bool:
    """Whether a call of a method ``open`` is that of a path: with a mode that reads."""
    modes = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "mode")]
    return any(isinstance(m, ast.Constant) and m.value in ("r", "rb", "rt", "r+", "r+b") for m in modes)


def test_c6_every_file_is_read_in_one_way():
    """A new call that opens files must be replaced by one of ``utils/reading.py``, or be listed with its reason."""
    calls = {
        (path.relative_to(PACKAGE).as_posix(), call)
        for path in PACKAGE.rglob("*.py")
        for call in reads(path.read_text(encoding="utf-8"))
    }
    assert sorted(calls - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - calls) == [], "remove the entries that are no longer needed"


@pytest.mark.parametrize(
    "source",
    [
        "open('x')",
        "path.read_text()",
        "Path('x').read_bytes()",
        "with path.open('rb') as f: pass",
        "np.load(f)",
        "from PIL import Image\nImage.open(p)",
        "zipfile.ZipFile(p)",
    ],
)
def test_the_rule_can_fail(source):
    """The check sees a file that is opened."""
    assert len(reads(source)) == 1
    assert reads("run_dir.open(recipe); archive.read(member); json.loads(text); path.open('wb')") == set()
