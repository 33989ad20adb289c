"""The list of a set of shards: ``index.json`` beside them.

The file is an index of `wids` (``wids_version``, ``shardlist`` with ``url`` and ``nsamples``), which WebDataset reads;
the other keys are our own. A list that another program wrote needs ``url`` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fromnoise.data.source import Log
from fromnoise.utils.errors import UserError, printable
from fromnoise.utils.reading import UnreadableFile

LIST_NAME = "index.json"
"""Name of the list of a set of shards."""
INDEX_SUFFIX = ".index"
"""End of the name of a shard's own index, beside the shard."""
_MOST_SHARDS = 1_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """A shard of a set.

    Attributes:
        name: of its file, in the folder of the list.
        images: number of its images; None if unknown.
        size: of its file in bytes; None if unknown.
        sha256: digest of its file; empty if unknown.
        split: to which its images belong; empty if unknown.
        first: number of the first image of the source that it was packed from.
        stop: number after the last one.
    """

    name: str
    images: int | None = None
    size: int | None = None
    sha256: str = ""
    split: str = ""
    first: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Manifest:
    """A set of shards.

    Attributes:
        shards: in order.
        class_names: names of the classes, to which the labels are indices; None if unknown.
        complete: whether all shards have been packed.
        settings: with which it was packed; empty for a list of another program.
        left_out: images of the source that could not be read; at most ten.
    """

    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] | None = None
    complete: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Content of the file."""
        entries = [
            {
                "url": s.name,
                "nsamples": s.images,
                "filesize": s.size,
                "sha256": s.sha256,
                "split": s.split,
                "first": s.first,
                "stop": s.stop,
            }
            for s in self.shards
        ]
        values: dict[str, Any] = {"wids_version": 1, "name": "fromnoise data pack", "complete": self.complete}
        values |= {"classes": self.class_names, "left_out": self.left_out, "settings": self.settings}
        return (json.dumps(values | {"shardlist": entries}, indent=1) + "\n").encode()


def parse_manifest(content: bytes, path: object) -> Manifest:
    """Parse the list of a set of shards.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        UnreadableFile: it is no list of shards, or names files outside of its folder.
    """
    try:
        values = json.loads(content)
        entries = values["shardlist"]
        if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_SHARDS:
            raise ValueError("its shardlist is empty or no list")
        shards = tuple(_shard(entry) for entry in entries)
        if len({s.name for s in shards}) < len(shards):
            raise ValueError("it names a shard twice")
        classes, settings = values.get("classes"), values.get("settings", {})
        if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
            raise ValueError("its classes are no list of names")
        left_out = values.get("left_out", [])
        if not isinstance(settings, dict) or not isinstance(left_out, list):
            raise ValueError("its settings are no table")
        names = None if classes is None else tuple(map(printable, classes))
        complete = values.get("complete", True) is not False
        return Manifest(shards, names, complete, settings, tuple(printable(str(n)) for n in left_out))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = printable(str(error)) if type(error) is ValueError else type(error).__name__
        raise UnreadableFile(
            str(path), reason, "'{path}' is no list of shards ({reason}): restore it, or remove it to use every shard"
        ) from None


def _shard(entry: Any) -> Shard:
    name = entry["url"]
    if not isinstance(name, str) or not name or name != name.rpartition("/")[2] or "\\" in name or "\0" in name:
        raise ValueError(f"it names {str(name)[:100]!r}, which is no file of its own folder")
    digest, split = entry.get("sha256", ""), entry.get("split", "")
    if not isinstance(split, str) or (digest != "" and not (isinstance(digest, str) and _DIGEST.fullmatch(digest))):
        raise ValueError(f"the entry of {name} has a damaged digest or split")
    images, size, first, stop = (entry.get(key) for key in ("nsamples", "filesize", "first", "stop"))
    if any(n is not None and (type(n) is not int or not 0 <= n < 2**62) for n in (images, size, first, stop)):
        raise ValueError(f"the entry of {name} has a number that is none")
    return Shard(name, images, size, digest, printable(split), first or 0, stop or 0)


def check_complete(manifest: Manifest, folder: object) -> None:
    """Check that packing has come to its end.

    Raises:
        UserError: it was interrupted.
    """
    if not manifest.complete:
        raise UserError(f"packing of '{folder}' was interrupted: run the same fromnoise data pack again to finish it")


def problem_list(problems: Sequence[str]) -> str:
    """Name the first few of several problems."""
    return "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")


def shards_of_set(manifest: Manifest, names: Sequence[str], present: Sequence[str], log: Log) -> list[str]:
    """The shards to open: if all that are present are named, all of the list, so that missing ones are noticed.

    Args:
        manifest: the list of the set.
        names: the shards that the user named.
        present: the shards that exist.
        log: takes a line about shards that are not in the list.
    """
    listed = [shard.name for shard in manifest.shards]
    if not set(names) & set(listed):
        return list(names)
    others = sorted(set(names) - set(listed))
    if others:
        log(f"left out {len(others)} shards that are not in {LIST_NAME}: {', '.join(others[:5])}")
    return [name for name in listed if name in set(names) or set(present) <= set(names)]
