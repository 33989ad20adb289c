"""Checks packed shards against the digests in their list."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fromnoise.data.shards.index import index_tar
from fromnoise.data.shards.manifest import LIST_NAME, Manifest, Shard, check_complete, parse_manifest
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, first_line, limits, open_regular, read_bytes, sha256_of


def verify(folder: Path, on_shard: Callable[[int, int], object] | None = None) -> tuple[Manifest, list[str]]:
    """Read every shard of a folder, and compare it with the list.

    Args:
        folder: with shards and an index.json.
        on_shard: called with the number of shards read, and of all.

    Returns:
        The list, and what is wrong with which shard.

    Raises:
        UserError: there is no list, or packing has not come to its end.
    """
    path = folder / LIST_NAME
    if not path.exists():
        raise UserError(f"'{folder}' has no {LIST_NAME}: name a folder that fromnoise data pack has written")
    manifest = parse_manifest(read_bytes(path, limits().text_bytes), path)
    check_complete(manifest, folder)
    problems = []
    for done, shard in enumerate(manifest.shards, 1):
        problem = _problem(folder / shard.name, shard)
        if problem:
            problems.append(f"{shard.name} ({problem})")
        if on_shard is not None:
            on_shard(done, len(manifest.shards))
    return manifest, problems


def _problem(path: Path, shard: Shard) -> str:
    """What is wrong with a shard; empty if nothing is."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if shard.size is not None and size != shard.size:
                return f"{size:,} of {shard.size:,} bytes"
            if shard.sha256:
                digest = sha256_of(file)
                return "" if digest == shard.sha256 else "another digest than in the list"
            count = len(index_tar(file, size))  # the list of another program has no digests
            return "" if shard.images in (None, count) else f"{count:,} of {shard.images:,} images"
    except UnreadableFile as error:
        return error.reason
    except (OSError, ValueError) as error:
        return first_line(error)
