"""The members of a .tar file: names, offsets and sizes, without unpacking anything."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_LONGEST_HEADER = 1 << 20  # bytes of the extended header of a member
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")
_NAMED_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_REGULAR = (*tarfile.REGULAR_TYPES[:2], tarfile.CONTTYPE)

OnSkip = Callable[[str, str], object]
"""Called with the name of a member that is left out, and the reason."""


class Member(NamedTuple):
    """A regular file in a .tar file.

    Attributes:
        name: its path in the archive, without a leading ``./`` or ``/``.
        offset: of its content from the start of the archive, in bytes.
        size: of its content in bytes.
    """

    name: str
    offset: int
    size: int


def tar_members(file: BinaryIO, size: int, on_skip: OnSkip) -> Iterator[Member]:
    """Walk through the headers of an uncompressed .tar file (POSIX ustar and pax, GNU long names).

    Links, devices, pipes and sparse files are left out; nothing is written to the disk, so names may be anything.

    Args:
        file: the archive, which can seek.
        size: its bytes.
        on_skip: takes the members that are left out.

    Yields:
        The regular files in the order of the archive.

    Raises:
        ValueError: it is no .tar file, or is damaged or truncated; members before the damage have been yielded.
    """
    at, extended = 0, _Extended()
    while True:
        block = _read(file, at, _BLOCK, size)
        if block == _ZERO:
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            where = "it is no .tar file" if at == 0 else f"the header at byte {at} is damaged"
            raise ValueError(f"{where}: {error}") from None
        content = at + _BLOCK
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if not 0 <= header.size <= _LONGEST_HEADER:
                raise ValueError(f"the header at byte {at} declares {header.size} bytes")
            data = _read(file, content, header.size, size)
            extended = extended.with_long_name(data) if header.type == b"L" else extended.with_pax(data)
            at = content + _padded(header.size)
            continue
        length = extended.size if extended.size is not None else header.size
        name = (extended.name or header.name).removeprefix("./").lstrip("/")
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        if has_content and not 0 <= length <= size - content:
            raise ValueError(f"it is truncated: {name} has {length} bytes, of which the file holds {size - content}")
        if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):  # nothing in them changes where a file lies
            at = content + _padded(max(0, header.size))
            continue
        if header.type in _REGULAR and not extended.sparse:
            yield Member(name, content, length)
        elif not header.isdir():
            on_skip(name, "a sparse file" if extended.sparse else _NAMED_KINDS.get(header.type, "of an unknown kind"))
        at = content + (_padded(length) if has_content else 0)
        extended = _Extended()


class _Extended(NamedTuple):
    """What the headers before a member say of it."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False

    def with_long_name(self, data: bytes) -> _Extended:
        return self._replace(name=data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))

    def with_pax(self, data: bytes) -> _Extended:
        """Add the records ``length key=value`` of a pax header."""
        found, at = self, 0
        while at < len(data) and data[at] != 0:
            record = _PAX_RECORD.match(data, at)
            end = at + int(record[1]) if record else at
            if record is None or not record.end() < end <= len(data):
                raise ValueError("an extended header is damaged")
            key, value = record[2], data[record.end() : end - 1]
            if key == b"path":
                found = found._replace(name=value.decode("utf-8", "surrogateescape"))
            elif key == b"size":
                if not value.isdigit() or len(value) > 18:
                    raise ValueError("an extended header declares a size that is no number")
                found = found._replace(size=int(value))
            elif key.startswith(b"GNU.sparse"):
                found = found._replace(sparse=True)
            at = end
        return found


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _read(file: BinaryIO, at: int, count: int, size: int) -> bytes:
    """Read a part of the archive that must be there."""
    if at + count > size:
        raise ValueError("it is truncated: the mark at the end of the archive is missing")
    file.seek(at)
    block = file.read(count)
    if len(block) < count:
        raise ValueError("it is truncated: it has become shorter")
    return block
