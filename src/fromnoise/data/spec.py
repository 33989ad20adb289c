"""The data SPEC: one word for a data set.

==============================  ======================================================================
``digits``, ``mnist``, ...      a registered data set (``data/named/``)
``hub:owner/name[/config]``     a data set of the Hugging Face hub
a folder                        image files; sub-folders are classes, or splits and then classes, or labels
                                are in a labels.csv beside the images (``label_table``); or .tar shards, parquet or
                                IDX files
a file                          of a registered format (``data/formats/``): .zip, .npz, .npy, .tar, .parquet, IDX,
                                or an image
``name-{000000..000012}.tar``   several shards or parquet files; ``folder/*.tar`` too
``s3://...``, ``http://...``    shards or parquet files in an object store (``shards/remote``)
``hf://datasets/owner/name``    parquet files of the hub, fetched as they are needed (``shards/remote_tables``)
==============================  ======================================================================

``SPEC:split`` is one split of it: train, validation (val), test, a name of its own, or all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import fromnoise.data.formats
import fromnoise.data.named  # noqa: F401  both register what is in them
from fromnoise import registry
from fromnoise.data.folder_index import index_folder, open_indexed
from fromnoise.data.format import Format, all_formats, describe_formats, find_format, image_files
from fromnoise.data.hub import open_hub
from fromnoise.data.image_tree import count_suffixes, open_folder, walk
from fromnoise.data.named_dataset import open_named
from fromnoise.data.shards.manifest import problem_list
from fromnoise.data.shards.patterns import is_pattern, local_files
from fromnoise.data.shards.remote import open_remote
from fromnoise.data.source import Log, Source, Splits, default_log, did_you_mean, select_split
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import decoding

_SPLIT_ORDER = ("train", "validation", "test")
_PLUGIN = "; --plugin MODULE adds those of a plug-in"


def parse_spec(spec: str) -> tuple[str, str | None]:
    """Separate the split from a SPEC.

    A colon that is part of a path (one that exists, or after the letter of a drive), of ``hub:`` or of an address
    (before its port) is kept.

    Returns:
        The data set, and the split or None.

    Raises:
        UserError: the SPEC or its split is empty.
    """
    head, colon, tail = spec.rpartition(":")
    whole = not colon or spec == f"hub:{tail}" or any(c in tail for c in "/\\") or Path(spec).expanduser().exists()
    whole = whole or (tail.isdecimal() and "/" not in head.partition("://")[2] and "://" in head)
    name, split = (spec, None) if whole else (head, tail)
    if not name or split == "":
        missing = "split" if name else "data set"
        raise UserError(f"data '{spec}' does not name a {missing}; write SPEC or SPEC:split, as in mnist:test")
    return name, split


def _open_folder(root: Path, log: Log) -> Splits:
    if (root / "model.safetensors").exists() and (root / "recipe.toml").exists():
        raise UserError(f"'{root}' is a run directory, not data: name its data, or a folder of samples in it")
    indexed = open_indexed(root, log)
    if indexed is not None:
        return indexed
    began = time.time()
    files, folders = walk(root)
    images = image_files(files)
    if images:
        return index_folder(root, images, files, folders, began, log) or open_folder(root, images, log, files)
    for candidate in all_formats():
        if isinstance(candidate, Format) and candidate.several_files:
            names = [f for f in files if candidate.matches(f)]
            if names:
                with decoding(root, candidate.description or "/".join(candidate.suffixes)):
                    return candidate.open(root, names, log)
    if not files:
        raise UserError(f"'{root}' is an empty folder; put images into it")
    raise UserError(f"'{root}' holds no images (found {count_suffixes(files)}); name {describe_formats()}{_PLUGIN}")


def _open_path(path: Path, log: Log) -> Splits:
    if path.is_dir():
        return _open_folder(path, log)
    found = find_format(path.name)
    if found is None:
        raise UserError(f"'{path}' has none of the registered formats; name {describe_formats()}{_PLUGIN}")
    if isinstance(found, Format):
        with decoding(path, found.description or "/".join(found.suffixes)):
            return found.open(path.parent, [path.name], log)
    return open_folder(path.parent, [path.name], log)


def _open_pattern(name: str, log: Log) -> Splits:
    """Open the files of a pattern as one data set."""
    paths = [Path(file) for file in local_files(os.path.expanduser(name))]
    found = find_format(paths[0].name)
    if not isinstance(found, Format) or not found.several_files or not all(found.matches(p.name) for p in paths):
        raise UserError(f"'{name}' must name files of one format that has shards: .tar or .parquet")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    with decoding(root, found.description or "/".join(found.suffixes)):
        return found.open(root, [path.relative_to(root).as_posix() for path in paths], log)


def open_splits(name: str, log: Log = default_log, skip_damaged: bool = False) -> Splits:
    """Open a data set.

    Args:
        name: a SPEC without its split.
        log: takes lines that say what was chosen or left out.
        skip_damaged: leave out shards that are missing or damaged, instead of refusing.

    Returns:
        Its splits, ``train``, ``validation`` and ``test`` first; or ``{"all": ...}``.

    Raises:
        UserError: there is no such data set, it cannot be read, it holds no images, or shards of it are missing or
            damaged.
    """
    path = Path(name).expanduser()
    named = registry.names("dataset")
    try:
        if name in named:
            splits = open_named(name, log)
        elif name.startswith("hub:"):
            splits = open_hub(name.removeprefix("hub:"), log)
        elif path.exists():
            splits = _open_path(path, log)
        elif "://" in name:
            splits = open_remote(name, log)
        elif is_pattern(name):
            splits = _open_pattern(name, log)
        else:
            hint = (
                did_you_mean(name, named)
                or f"; name {describe_formats()}, hub:owner/name, or one of {', '.join(named)}{_PLUGIN}"
            )
            raise UserError(f"no data set and no such file: '{name}'{hint}")
    except OSError as error:
        raise UserError(f"cannot read '{error.filename or name}': {error.strerror or error}") from None
    damaged = list(dict.fromkeys(word for source in splits.values() for word in source.damaged))
    if damaged and not skip_damaged:
        raise UserError(
            f"{len(damaged)} shards of '{name}' are missing or damaged: {problem_list(damaged)}. Restore them, or "
            "leave them out with --data.skip_damaged true"
        )
    if damaged:
        log(f"left out {len(damaged)} shards that are missing or damaged: {problem_list(damaged)}")
    order = {split: i for i, split in enumerate(_SPLIT_ORDER)}
    return {s: splits[s] for s in sorted(splits, key=lambda s: order.get(s, len(order)))}


def open_source(spec: str, split: str | None = None, log: Log = default_log, skip_damaged: bool = False) -> Source:
    """Open a data set, or one split of it.

    Args:
        spec: a SPEC; its own ``:split``, if any, takes precedence over ``split``.
        split: a split; None or ``all`` for the whole data set.
        log: takes lines that say what was chosen or left out.
        skip_damaged: see ``open_splits``.

    Raises:
        UserError: there is no such data set or split, it cannot be read, or it holds no images.
    """
    name, own = parse_spec(spec)
    return select_split(open_splits(name, log, skip_damaged), own or split, spec)
