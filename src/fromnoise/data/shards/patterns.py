"""Names of shards: patterns such as ``name-{000000..000012}.tar`` and ``folder/*.tar``, and compressed archives."""

from __future__ import annotations

import glob
import re
from itertools import islice, product

from fromnoise.utils.errors import UserError

_MOST = 1_000_000
COMPRESSED = {
    **dict.fromkeys((".tar.gz", ".tgz"), "gunzip"),
    **dict.fromkeys((".tar.bz2", ".tbz2"), "bunzip2"),
    **dict.fromkeys((".tar.xz", ".txz"), "unxz"),
    **dict.fromkeys((".tar.zst", ".tzst"), "unzstd"),
}
"""Ends of the names of compressed archives, and the program that unpacks each."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(name: str) -> bool:
    """Whether a name has braces, or the signs ``*?[`` of a glob pattern."""
    return bool(_BRACES.search(name)) or glob.has_magic(name)


def expand_braces(name: str) -> list[str]:
    """The names that braces stand for: ``{08..10}`` is 08, 09, 10, ``{a,b}`` is a, b; of several the last runs first.

    Raises:
        UserError: a range is empty, or the names are too many.
    """
    parts = _BRACES.split(name)  # text, braces, text, ...
    choices = [[part] if i % 2 == 0 else _choices(part, name) for i, part in enumerate(parts)]
    names = ["".join(words) for words in islice(product(*choices), _MOST + 1)]
    if len(names) > _MOST:
        raise UserError(f"'{name}' stands for more than {_MOST:,} files: name fewer")
    return names


def _choices(inside: str, name: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",")
    first, last = int(found[1]), int(found[2])
    if first > last or last - first >= _MOST or max(len(found[1]), len(found[2])) > 18:
        raise UserError(f"'{name}' has a range that is empty or too long: write it as {{000000..000012}}")
    return [str(number).zfill(len(found[1])) for number in range(first, last + 1)]


def local_files(name: str) -> list[str]:
    """The files that a pattern names; those of braces need not exist.

    Raises:
        UserError: no file matches.
    """
    found: list[str] = []
    for expanded in expand_braces(name):
        if not glob.has_magic(expanded):
            found.append(expanded)
            continue
        matching = sorted(glob.glob(expanded))
        if not matching:
            raise UserError(f"no file matches '{expanded}'")
        found += matching
    return list(dict.fromkeys(found))


def check_uncompressed(name: str) -> None:
    """Check that a shard can be read by position.

    Raises:
        UserError: it is compressed.
    """
    program = next((p for suffix, p in COMPRESSED.items() if name.lower().endswith(suffix)), None)
    if program is not None:
        raise UserError(
            f"'{name}' is compressed, so its images cannot be read by position: unpack it with {program}; images are "
            "compressed already"
        )
