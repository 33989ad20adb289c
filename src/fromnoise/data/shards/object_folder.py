"""A folder of an object store, through fsspec; requests that fail are tried again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fromnoise.data.shards.patterns import expand_braces
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import UnreadableFile, check_size, first_line, limits, open_regular, sha256_of

_TRIES = 5  # of each request
_FIRST_PAUSE = 0.5  # seconds, doubled after each failed try
_PERMANENT = (PermissionError, NotADirectoryError, IsADirectoryError, NotImplementedError)

T = TypeVar("T")


def version_of(info: Mapping[str, Any]) -> str:
    """Digest or time of change of a file, by what the store tells of it; empty if it tells neither."""
    keys = ("ETag", "etag", "blob_id", "LastModified", "mtime", "created", "md5Hash")
    return next((str(info[key]) for key in keys if info.get(key)), "")


class ObjectFolder:
    """A folder of an object store; every request is tried several times."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            UserError: a package for this kind of store is missing.
        """
        try:
            import fsspec

            options = {"endpoint": os.environ.get("HF_ENDPOINT")} if url.startswith("hf://") else {}
            self._fs, path = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise UserError(f"'{url}' cannot be opened: {first_line(error)}; install what it names") from None
        except ValueError as error:
            raise UserError(f"'{url}' is no address of a store: {first_line(error)}") from None
        self.url = url
        self._path = path.rstrip("/")

    def path(self, name: str) -> str:
        """Path of a file of the folder, as fsspec names it."""
        return f"{self._path}/{name}"

    def attempt(self, request: Callable[[], T], name: str) -> T:
        """Make a request, again after an error that may pass.

        Raises:
            FileNotFoundError: the file does not exist.
            UserError: every try has failed.
        """
        pause = _FIRST_PAUSE
        for left in reversed(range(_TRIES)):
            try:
                return request()
            except FileNotFoundError:
                raise
            except UserError:
                raise
            except Exception as error:  # every store has errors of its own
                if left == 0 or isinstance(error, _PERMANENT):
                    raise UserError(
                        f"cannot read '{self.url}/{name}': {first_line(error)}; check the connection and run the same "
                        "command again"
                    ) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def fetch_small(self, name: str) -> bytes | None:
        """A list of shards; None if there is none."""
        limit = limits().text_bytes

        def request() -> bytes:
            with self._fs.open(self.path(name), "rb") as file:
                return file.read(limit + 1)

        try:
            content = self.attempt(request, name)
        except FileNotFoundError:
            return None
        check_size(f"{self.url}/{name}", len(content), limit)
        return content

    def matching(self, pattern: str) -> list[str]:
        """Names of the files that a pattern stands for."""
        names: list[str] = []
        for name in expand_braces(pattern):
            if not any(c in name for c in "*?["):
                names.append(name)
                continue
            found = self.attempt(lambda name=name: self._fs.glob(self.path(name)), name)
            names += sorted(str(path).rpartition("/")[2] for path in found)
        return list(dict.fromkeys(names))

    def below(self, suffix: str) -> list[str]:
        """Paths of all files below the folder whose names end with a suffix, sorted."""
        try:
            found = self.attempt(lambda: self._fs.find(self._path), f"**/*{suffix}")
        except FileNotFoundError:
            return []
        names = [str(path).removeprefix(self._path).lstrip("/") for path in found]
        return sorted(name for name in names if name.endswith(suffix))

    def open(self, name: str) -> BinaryIO:
        """Open a file; what is read of it is requested then.

        Raises:
            Exception: as the store; callers use ``attempt``.
        """
        return self._fs.open(self.path(name), "rb")

    def version(self, name: str) -> str:
        """What changes when a file does: size, and digest or time of change, as far as the store tells.

        Raises:
            FileNotFoundError: it does not exist.
        """
        info = self.info(name)
        return f"{info.get('size')}\0{version_of(info)}"

    def info(self, name: str) -> dict[str, Any]:
        """Size and time of change of a file.

        Raises:
            FileNotFoundError: it does not exist.
        """
        return self.attempt(lambda: self._fs.info(self.path(name)), name)

    def copy(self, name: str, path: Path, size: int, sha256: str) -> None:
        """Write the content of a file to a path, and check it.

        Raises:
            UnreadableFile: it has another size or digest.
            UserError: it cannot be reached.
        """
        try:
            self.attempt(lambda: self._fs.get_file(self.path(name), str(path)), name)
        except FileNotFoundError:
            raise UnreadableFile(f"{self.url}/{name}", "it is gone") from None
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise UnreadableFile(f"{self.url}/{name}", f"it has {found:,} of {size:,} bytes")
            if sha256 and sha256_of(file) != sha256:
                raise UnreadableFile(f"{self.url}/{name}", "it has another digest than in the list")

    def parts(self, requests: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Fetch parts (name, offset, size) together; those that fail are requested again.

        Raises:
            UserError: a shard is gone or has become shorter, or the store cannot be reached.
        """
        found: dict[int, bytes] = {}

        def request() -> None:
            missing = [i for i in range(len(requests)) if i not in found]
            paths = [self.path(requests[i][0]) for i in missing]
            starts = [requests[i][1] for i in missing]
            ends = [requests[i][1] + requests[i][2] for i in missing]
            results = self._fs.cat_ranges(paths, starts, ends, on_error="return")
            errors = [result for result in results if isinstance(result, Exception)]
            found.update({i: r for i, r in zip(missing, results, strict=True) if not isinstance(r, Exception)})
            if errors:
                raise errors[0]

        again = "restore it and run the same command again"
        try:
            self.attempt(request, requests[0][0])
        except FileNotFoundError as error:
            raise UserError(f"a shard of '{self.url}' is gone ({error}): {again}") from None
        for i, (name, _, size) in enumerate(requests):
            if len(found[i]) > size:
                raise UserError(
                    f"'{self.url}' cannot be read in parts, as a set that is larger than the cache must be: raise "
                    "FROMNOISE_CACHE_GB"
                )
            if len(found[i]) < size:
                raise UserError(f"'{self.url}/{name}' has become shorter since it was indexed: {again}")
        return [bytes(found[i]) for i in range(len(requests))]
