"""Shards: .tar files of the WebDataset layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from fromnoise.data.format import Format
from fromnoise.data.shards.manifest import LIST_NAME, check_complete, parse_manifest, shards_of_set
from fromnoise.data.shards.patterns import COMPRESSED, check_uncompressed
from fromnoise.data.shards.shard_source import open_shards
from fromnoise.data.shards.store import LocalStore
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register
from fromnoise.utils.reading import limits, read_bytes


@register("format", "tar")
@final
class TarShards(Format):
    """Images in .tar files of the WebDataset layout: ``key.png`` with ``key.cls`` or ``key.json``; or in folders."""

    suffixes = (".tar", *COMPRESSED)
    description = ".tar shards"
    several_files = True

    def open(self, root: Path, names: Sequence[str], log: Log) -> Splits:
        """See ``Format``; compressed archives are refused, because they cannot be read by position."""
        for name in names:
            check_uncompressed(name)
        path = root / LIST_NAME
        manifest = parse_manifest(read_bytes(path, limits().text_bytes), path) if path.exists() else None
        if manifest is not None:
            check_complete(manifest, root)
            present = sorted(path.name for path in root.glob("*.tar"))
            names = shards_of_set(manifest, names, present, log)
        title = names[0] if len(names) == 1 else root.name
        return open_shards(LocalStore(root, names, manifest, log), title, log)
