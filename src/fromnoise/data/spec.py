"""What a data SPEC may be.

==============================  ======================================================================
``digits``                      scikit-learn's handwritten digits, always at hand
``mnist``, ``fashion_mnist``,   below $FROMNOISE_DATA, else fetched once into the cache
``cifar10``, ``flowers102``
``hub:owner/name[/config]``     a set of the Hugging Face hub
a folder                        images, sub-folders being classes, or splits and then classes, or with
                                labels.csv beside them (``sidecar``); or parquet or IDX files
``.zip``                        as a folder of images
``.npz``, ``.npy``              (N, H, W), (N, C, H, W) or (N, H, W, C), bytes or numbers of a usual range
``.parquet``                    encoded images, one a row
IDX, plain or ``.gz``           the format of MNIST
==============================  ======================================================================

``SPEC:split`` is one split of it: train, validation (val), test, a name of its own, or all.
"""

from __future__ import annotations

from pathlib import Path

from fromnoise.data.arrays import idx_files, open_idx, open_npy, open_npz
from fromnoise.data.files import is_image, open_folder, open_zip, walk, what
from fromnoise.data.named import NAMES, open_named
from fromnoise.data.source import Log, Parts, Source, default_log, nearest, pick
from fromnoise.data.tables import open_hub, open_parquet
from fromnoise.utils.errors import UserError

_ORDER = ("train", "validation", "test")
_KINDS = "a folder of images, .zip, .npz, .npy, .parquet or an IDX file"


def parse(spec: str) -> tuple[str, str | None]:
    """Cut ``:split`` off a SPEC.

    A colon that belongs to a path (one that exists, or behind the letter of a drive) or to ``hub:`` stays.

    Returns:
        The set, and the split or None.

    Raises:
        UserError: the SPEC or its split is empty.
    """
    head, colon, tail = spec.rpartition(":")
    whole = not colon or spec == f"hub:{tail}" or any(c in tail for c in "/\\") or Path(spec).expanduser().exists()
    name, split = (spec, None) if whole else (head, tail)
    if not name or split == "":
        raise UserError(
            f"data '{spec}' names no {'split' if name else 'set'}; write SPEC or SPEC:split, as in mnist:test"
        )
    return name, split


def _open_folder(root: Path, log: Log) -> Parts:
    files = walk(root)
    images = [f for f in files if is_image(f)]
    if images:
        return open_folder(root, images, log, files)
    tables = [f for f in files if f.endswith(".parquet")]
    if tables:
        return open_parquet(root, tables, log)
    idx = idx_files(files)
    if idx:
        return open_idx({s: root / f for s, f in idx.items()}, log)
    if not files:
        raise UserError(f"'{root}' is an empty folder; put images into it")
    raise UserError(f"'{root}' holds no images (found {what(files)}); name {_KINDS}")


def _open_path(path: Path, log: Log) -> Parts:
    if path.is_dir():
        return _open_folder(path, log)
    ending = path.suffix.lower()
    if ending == ".zip":
        return open_zip(path, log)
    if ending == ".npz":
        return open_npz(path, log)
    if ending == ".npy":
        return open_npy(path, log)
    if ending == ".parquet":
        return open_parquet(path.parent, [path.name], log)
    if ending in (".gz", ".idx") or "idx" in path.name or "ubyte" in path.name:
        return open_idx({"all": path}, log)
    if is_image(path.name):
        return open_folder(path.parent, [path.name], log)
    raise UserError(f"'{path}' is no kind of data known here; name {_KINDS}")


def open_parts(name: str, log: Log = default_log) -> Parts:
    """Open a set.

    Args:
        name: a SPEC without its split.
        log: takes lines that say what was chosen or left out.

    Returns:
        Its splits, ``train``, ``validation`` and ``test`` first; or ``{"all": ...}``.

    Raises:
        UserError: there is no such set, it cannot be read, or it holds no images.
    """
    path = Path(name).expanduser()
    try:
        if name in NAMES:
            parts = open_named(name, log)
        elif name.startswith("hub:"):
            parts = open_hub(name.removeprefix("hub:"), log)
        elif path.exists():
            parts = _open_path(path, log)
        else:
            hint = nearest(name, NAMES) or f"; name {_KINDS}, hub:owner/name, or one of {', '.join(NAMES)}"
            raise UserError(f"no data set and no such file: '{name}'{hint}")
    except OSError as error:
        raise UserError(f"cannot read '{error.filename or name}': {error.strerror or error}") from None
    return {s: parts[s] for s in sorted(parts, key=lambda s: _ORDER.index(s) if s in _ORDER else len(_ORDER))}


def open_source(spec: str, split: str | None = None, log: Log = default_log) -> Source:
    """Open a set, or one split of it.

    Args:
        spec: a SPEC; its own ``:split``, if any, goes before ``split``.
        split: a split; None or ``all`` for everything.
        log: takes lines that say what was chosen or left out.

    Raises:
        UserError: there is no such set or split, it cannot be read, or it holds no images.
    """
    name, own = parse(spec)
    return pick(open_parts(name, log), own or split, spec)
