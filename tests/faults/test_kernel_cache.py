"""The cache of the C kernels loads only what this user compiled, and survives damage (review C1, C2, C8)."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path

import pytest

from fromnoise.networks import kernels
from fromnoise.networks.kernels import build

pytestmark = [
    pytest.mark.slow,  # gcc runs in most of these tests
    pytest.mark.skipif(build.library("group_norm") is None, reason="needs Linux, gcc and torch's OpenMP"),
]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def load() -> ctypes.CDLL | None:
    """Load the library as a new process does; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return build.library.__wrapped__("group_norm")


def refused() -> str:
    """The warning of a load that falls back to torch."""
    with pytest.warns(RuntimeWarning) as caught:
        assert build.library.__wrapped__("group_norm") is None
    assert len(caught) == 1
    return str(caught[0].message)


def files(cache: Path) -> tuple[Path, Path]:
    """The library and its digest."""
    (library,) = cache.glob("*.so")
    return library, library.with_name(library.name + ".sha256")


def test_c1_planted_library_in_a_folder_that_others_can_write(cache):
    """Its files are removed, also with a matching digest, and compiled again; the folder becomes private."""
    assert load() is not None
    library, digest = files(cache)
    planted = b"\x7fELF planted"
    library.unlink()
    library.write_bytes(planted)
    digest.write_text(__import__("hashlib").sha256(planted).hexdigest())
    cache.chmod(0o777)
    assert load() is not None
    assert library.read_bytes() != planted
    assert cache.stat().st_mode & 0o777 == 0o700


def test_c1_folder_that_is_a_link(cache, tmp_path):
    """A link in place of the folder is refused."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache.symlink_to(elsewhere)
    assert "is a link" in refused()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_c1_folder_of_another_user(cache):
    """A folder of another user's is refused, also by root."""
    cache.mkdir(parents=True)
    os.chown(cache, 12345, 12345)
    assert "belongs to another user" in refused()
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_c1_library_of_another_user(cache):
    """A library of another user's is compiled again."""
    assert load() is not None
    library, _ = files(cache)
    os.chown(library, 12345, 12345)
    assert load() is not None
    assert library.stat().st_uid == os.geteuid()


def test_c1_library_that_is_a_link(cache, tmp_path):
    """A link in place of the library is replaced."""
    assert load() is not None
    library, _ = files(cache)
    library.rename(tmp_path / "moved.so")
    library.symlink_to(tmp_path / "moved.so")
    assert load() is not None
    assert not library.is_symlink()


@pytest.mark.parametrize("content", [b"", b"not a library\n", None])
def test_c2_damaged_library_is_compiled_again(cache, content):
    """Empty, a text, or truncated, which killed the process by SIGBUS."""
    assert load() is not None
    library, _ = files(cache)
    whole = library.read_bytes()
    os.truncate(library, len(whole) // 2) if content is None else library.write_bytes(content)
    assert load() is not None
    assert library.stat().st_size == len(whole)


@pytest.mark.parametrize("damage", ["missing", "wrong", "folder"])
def test_c2_damaged_digest(cache, damage):
    """A digest that is missing, wrong or a folder."""
    assert load() is not None
    _, digest = files(cache)
    digest.unlink()
    if damage == "wrong":
        digest.write_text("0" * 64)
    if damage == "folder":
        digest.mkdir()
    assert load() is not None
    assert len(digest.read_text()) == 64


def test_c2_flushed_before_the_rename(cache, monkeypatch):
    """Library and digest are flushed to the disk before they get their final names."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b))[1])
    assert load() is not None
    assert events == ["fsync", "replace"] * 2


def test_c8_identity_names_the_kernel():
    """What computes the operation has a name that depends on the data type; without kernels it is torch."""
    before = kernels.enabled()
    kernels.enable()
    plain, bf16 = kernels.identity("group_norm"), kernels.identity("group_norm", "BF16")
    assert plain.startswith("group_norm-") and plain != bf16
    kernels.disable()
    assert kernels.identity("group_norm") == "torch"
    if before:
        kernels.enable()
