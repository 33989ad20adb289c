"""Files on the internet: download, check, and put into the cache as a whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from fromnoise.data.source import Log
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import flushed, sync_folder

_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class RemoteFile:
    """A file on the internet.

    Attributes:
        name: of the downloaded file.
        urls: addresses, tried in order.
        digest: of its content, as ``sha256:...`` or ``md5:...``.
    """

    name: str
    urls: tuple[str, ...]
    digest: str


def cache_folder() -> Path:
    """Folder of downloads: $FROMNOISE_CACHE, otherwise ~/.cache/fromnoise."""
    return Path(os.environ.get("FROMNOISE_CACHE") or Path.home() / ".cache" / "fromnoise").expanduser()


def _fetch(remote: RemoteFile, folder: Path) -> str | None:
    """Download a file; return what went wrong at the last of its addresses, or None."""
    algorithm, _, expected = remote.digest.partition(":")
    reason = None
    for url in remote.urls:
        request = urllib.request.Request(url, headers={"User-Agent": "fromnoise"})
        digest = hashlib.new(algorithm, usedforsecurity=False)
        try:
            with (
                urllib.request.urlopen(request, timeout=_TIMEOUT) as response,
                flushed(folder / remote.name) as file,
            ):
                while block := response.read(1 << 20):
                    digest.update(block)
                    file.write(block)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            continue
        if digest.hexdigest() == expected:
            return None
        reason = f"{url} returned other content than expected"
    return reason


def download(
    name: str,
    files: Sequence[RemoteFile],
    cache: Path,
    log: Log,
    unpack: Callable[[Path], None] = lambda folder: None,
    manual_files: str = "",
    alternative: str = "",
) -> None:
    """Download files into ``cache / name``, all or none of them.

    Args:
        name: of the folder.
        files: the files.
        cache: folder of downloads.
        log: takes a line before each download.
        unpack: converts the downloaded files in their folder before it is moved into the cache.
        manual_files: what to put into the folder by hand, for the message.
        alternative: name of a data set to use instead, for the message.

    Raises:
        UserError: a file cannot be downloaded, or the cache cannot be written.
    """
    target = cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the cache '{cache}' ({error.strerror}); name another in FROMNOISE_CACHE"
        ) from None
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache, ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        for remote in files:
            log(f"downloading {remote.urls[0]} into {target}")
            reason = _fetch(remote, folder)
            if reason is not None:
                other = f"use --data {alternative}, or " if alternative else ""
                raise UserError(
                    f"'{name}' is not on this machine and {remote.name} cannot be downloaded ({reason}); {other}put "
                    f"{manual_files or ', '.join(f.name for f in files)} into {target}, or name a folder that holds "
                    f"{name} in FROMNOISE_DATA"
                )
        unpack(folder)
        try:
            folder.rename(target)
        except OSError:
            # the folder exists: another process was faster, or a part of the files was put there by hand
            for item in folder.iterdir():
                if not (target / item.name).exists():
                    item.rename(target / item.name)
    sync_folder(cache)
