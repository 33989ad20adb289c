"""Reading of files that the user names: regular files only, within limits, and one line for whatever is wrong.

Every file that fromnoise has not just written itself is read through this module. The limits are in ``Limits``; two
environment variables raise them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from fromnoise.utils.errors import UserError, printable

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_BLOCK = 1 << 20


class UnreadableFile(UserError):
    """A file that is missing, of another kind, too large or damaged.

    Attributes:
        reason: why, without the file's name.
    """

    def __init__(self, path: str | Path, reason: str, message: str = "cannot read '{path}': {reason}") -> None:
        """Name the file and the reason.

        Args:
            path: of the file.
            reason: why it cannot be read.
            message: in which ``{path}`` and ``{reason}`` are replaced.
        """
        super().__init__(printable(message.format(path=path, reason=reason)))
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """Limits of what is read into memory.

    Attributes:
        array_bytes: of one file of arrays or one archive member, unpacked.
        checkpoint_bytes: of a checkpoint.
        image_bytes: of one image file.
        text_bytes: of a table of labels, a recipe, a log or a list of reports.
        pixels: of one image.
        expansion: how many times its packed size a file may have unpacked, beyond ``expansion_free`` bytes.
        expansion_free: unpacked bytes up to which ``expansion`` is not checked.
    """

    array_bytes: int = 4 << 30
    checkpoint_bytes: int = 64 << 30
    image_bytes: int = 1 << 30
    text_bytes: int = 256 << 20
    pixels: int = 1 << 26
    expansion: int = 100
    expansion_free: int = 256 << 20


MAX_GB = "FROMNOISE_MAX_GB"
"""Environment variable: the largest content of one file in GiB, of any kind; it lifts the limit of expansion too."""
MAX_PIXELS = "FROMNOISE_MAX_PIXELS"
"""Environment variable: the largest number of pixels of one image."""


def limits() -> Limits:
    """The limits, with those that the user has set.

    Raises:
        UserError: an environment variable is not a positive number.
    """
    size, pixels = (_positive(name) for name in (MAX_GB, MAX_PIXELS))
    found = Limits()
    if size is not None:
        every = int(size * 2**30)
        found = Limits(every, every, every, every, found.pixels, found.expansion, every)
    if pixels is not None:
        found = replace(found, pixels=int(pixels))
    return found


def _positive(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e15:
        raise UserError(f"{name}={printable(text)} must be a positive number")
    return value


def size_text(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; pipes and devices are refused without waiting for them.

    Raises:
        UnreadableFile: it is not a regular file, or cannot be read.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            _check_regular(path, os.fstat(handle).st_mode)  # it may have been replaced in between
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except (OSError, ValueError) as error:  # a ValueError for a null byte
        if str(path).startswith(("http:/", "https:/")):
            raise UnreadableFile(path, "it is an address; download the file first") from None
        raise UnreadableFile(path, _reason(error)) from None


def check_regular(path: str | Path, limit: int) -> None:
    """Check that a path is a regular file of at most ``limit`` bytes.

    Raises:
        UnreadableFile: it is not.
    """
    with open_regular(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size, limit)


def _check_regular(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
        raise UnreadableFile(path, f"it is {kind}, and only regular files are read")


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Read a regular file.

    Args:
        path: of the file.
        limit: bytes, ``Limits.array_bytes`` by default.

    Raises:
        UnreadableFile: it is not a regular file, cannot be read, or is larger than the limit.
    """
    limit = limits().array_bytes if limit is None else limit
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_size(path, size, limit)
        try:
            content = file.read(size)  # not limit: as many bytes are allocated as are asked for
            while block := file.read(_BLOCK):  # it has grown, or is in /proc, where sizes are 0
                content += block
                check_size(path, len(content), limit)
        except OSError as error:
            raise UnreadableFile(path, _reason(error)) from None
        except MemoryError:
            raise UnreadableFile(path, "it does not fit in memory") from None
    return content


def sha256_of(file: BinaryIO) -> str:
    """Digest of the rest of an open file, in hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def check_size(path: str | Path, size: int, limit: int) -> None:
    """Check a size against a limit.

    Raises:
        UnreadableFile: it is larger.
    """
    if size > limit:
        reason = f"{size_text(size)} is more than the limit of {size_text(limit)}"
        raise UnreadableFile(path, reason, f"cannot read '{{path}}': {{reason}}; set {MAX_GB} to read it")


def check_expansion(path: str | Path, packed: int, unpacked: int) -> None:
    """Check the unpacked size of a packed file, declared or actual.

    Raises:
        UnreadableFile: it is too large, alone or in proportion to the packed size.
    """
    found = limits()
    check_size(path, unpacked, found.array_bytes)
    if unpacked > max(found.expansion_free, found.expansion * packed):
        reason = f"{size_text(packed)} unpack to {size_text(unpacked)} or more, as images do not"
        raise UnreadableFile(path, reason, f"cannot read '{{path}}': {{reason}}; set {MAX_GB} to read it")


def check_pixels(height: int, width: int) -> None:
    """Check the size of an image.

    Raises:
        ValueError: it has too many pixels.
    """
    most = limits().pixels
    if height * width > most:
        raise ValueError(
            f"{height}x{width} pixels are more than the limit of {most / 1e6:.3g} million: set {MAX_PIXELS} to read it"
        )


def gunzip(path: str | Path, packed: bytes) -> bytes:
    """Unpack the content of a gzip file within the limits.

    Args:
        path: of the file, for messages.
        packed: its content.

    Raises:
        UnreadableFile: it is damaged, or unpacks to too much.
    """
    blocks, size, rest = [], 0, packed
    try:
        while rest:
            unpacker = zlib.decompressobj(wbits=31)
            while not unpacker.eof:
                block = unpacker.decompress(rest, _BLOCK)
                rest = unpacker.unconsumed_tail
                if not block and not rest and not unpacker.eof:
                    raise zlib.error("it is truncated")
                blocks.append(block)
                size += len(block)
                check_expansion(path, len(packed), size)
            rest = unpacker.unused_data.lstrip(b"\0")  # a gzip file may have several members, and padding
    except zlib.error as error:
        message = "'{path}' is not a complete gzip file ({reason}); download it again"
        raise UnreadableFile(path, first_line(error), message) from None
    return b"".join(blocks)


def check_member(member: zipfile.ZipInfo) -> None:
    """Check that the member of a zip archive can be unpacked within its declared size.

    Raises:
        ValueError: it is encrypted, or packed by a method that Python does not bound.
    """
    if member.flag_bits & 1:
        raise ValueError(f"{member.filename} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed by a method other than deflate")


def read_text(path: str | Path, limit: int | None = None) -> str:
    """Read a regular file of UTF-8 text.

    Args:
        path: of the file.
        limit: bytes, ``Limits.text_bytes`` by default.

    Raises:
        UnreadableFile: as ``read_bytes``, or it is not UTF-8.
    """
    content = read_bytes(path, limits().text_bytes if limit is None else limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(path, f"it is not UTF-8 text (byte {error.start})") from None


@contextlib.contextmanager
def decoding(path: str | Path, kind: str, remedy: str = "save it again") -> Iterator[None]:
    """Turn whatever a decoder raises into one line with the file's name.

    Args:
        path: of the file.
        kind: what it is read as, such as ".npz".
        remedy: what the user can do.

    Raises:
        UnreadableFile: any error of the block but a ``UserError``, which is passed on.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UnreadableFile(path, "it does not fit in memory") from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        message = f"'{{path}}' cannot be read as {kind} ({{reason}}); {remedy}"
        raise UnreadableFile(path, _reason(error), message) from None


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, printable; its type if it has none."""
    lines = str(error).splitlines()
    return printable(lines[0])[:200] if lines and lines[0] else type(error).__name__
