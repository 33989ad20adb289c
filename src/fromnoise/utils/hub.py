"""Model repositories of the Hugging Face hub: ``hub:owner/name[@revision]``, read and written by huggingface_hub.

Nothing that is downloaded is executed; the files go to huggingface_hub's cache and are then read as files of others.
``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` a token, ``HF_HUB_OFFLINE`` forbids the network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from tqdm.auto import tqdm

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line

PREFIX = "hub:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[\w][\w./-]{0,199}")
RUN_FILES = ("recipe.toml", "reports.jsonl")
"""Small files of a run; a repository with a recipe.toml is one of fromnoise."""
_SMALL_FILES = (
    *RUN_FILES,
    *("README.md", ".gitattributes", "model_index.json", "config.json", "scheduler_config.json"),
    *("unet/config.json", "scheduler/scheduler_config.json", "vae/config.json"),
)


class NoRepository(UserError):
    """There is no such repository of models, or it is private."""


@dataclass(frozen=True)
class HubName:
    """Name of a model repository.

    Attributes:
        repository: owner/name.
        revision: branch, tag or commit; None is the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | PurePath) -> HubName:
        """Read ``owner/name[@revision]``, with or without ``hub:``.

        Raises:
            UserError: it is no such name.
        """
        plain = _text(text).removeprefix(PREFIX)
        repository, at, revision = plain.partition("@")
        if not _NAME.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)) or ".." in plain:
            raise UserError(f"'{text}' is no name of a repository: write hub:owner/name, or hub:owner/name@revision")
        return cls(repository, revision or None)

    def __str__(self) -> str:
        """As it is written."""
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")


def is_hub(source: str | PurePath) -> bool:
    """Whether a source names a repository of the hub."""
    return _text(source).startswith(PREFIX)


def _text(source: str | PurePath) -> str:
    return source if isinstance(source, str) else source.as_posix()


@dataclass(frozen=True)
class Repository:
    """A repository whose small files are here.

    Attributes:
        name: of it, with the revision that was asked for.
        folder: where its files are, in the cache of huggingface_hub.
    """

    name: HubName
    folder: Path

    @property
    def is_run(self) -> bool:
        """Whether fromnoise wrote it."""
        return (self.folder / "recipe.toml").exists()

    @cached_property
    def files(self) -> frozenset[str]:
        """The names of all its files.

        Raises:
            UserError: the hub cannot be reached, or refuses.
        """
        with _errors_of(self.name):
            from huggingface_hub import HfApi

            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
            return frozenset(api.list_repo_files(self.name.repository, revision=self.folder.name))

    def fetch(self, *names: str) -> None:
        """Download files into ``folder``, as far as the repository has them and they are not there.

        Raises:
            UserError: the hub cannot be reached, or refuses.
        """
        missing = [name for name in names if not (self.folder / name).exists()]
        wanted = tuple(name for name in missing if name in self.files)
        if wanted:
            _download(self.name, self.folder.name, wanted, quiet=False)


def open_repository(source: str | PurePath) -> Repository:
    """Download the small files of a repository.

    Args:
        source: ``hub:owner/name[@revision]``.

    Raises:
        NoRepository: there is no such repository, or it is not public and there is no token for it.
        UserError: there is no such revision, or the hub cannot be reached and it is not in the cache.
    """
    name = HubName.parse(source)
    return Repository(name, _download(name, name.revision, _SMALL_FILES, quiet=True))


def has_repository(source: str | PurePath) -> bool:
    """Whether a name is that of a repository of models, not of a data set.

    Raises:
        UserError: the hub cannot be reached, or there is no such revision.
    """
    try:
        HubName.parse(source)
    except UserError:
        return False  # such as hub:owner/name:train
    try:
        open_repository(source)
    except NoRepository:
        return False
    return True


class _Quiet(tqdm):
    """A progress bar that is not shown, for files of a few kilobytes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))


def _download(name: HubName, revision: str | None, files: tuple[str, ...], *, quiet: bool) -> Path:
    with _errors_of(name):
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                name.repository,
                revision=revision,
                allow_patterns=list(files),
                endpoint=os.environ.get("HF_ENDPOINT"),
                tqdm_class=_Quiet if quiet else None,
            )
        )


def upload(name: HubName, files: Mapping[str, bytes], message: str, private: bool) -> str:
    """Write files to a repository in one commit, and create it if there is none.

    Args:
        name: of the repository; a revision is a branch that exists.
        files: content by path.
        message: of the commit.
        private: of a new repository: only its owner sees it.

    Returns:
        The address of the commit.

    Raises:
        UserError: there is no token, it may not write there, or the hub cannot be reached.
    """
    check_token(name)
    with _errors_of(name):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        api.create_repo(name.repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        commit = api.create_commit(name.repository, operations, commit_message=message, revision=name.revision)
        return str(commit.commit_url)


def check_token(name: HubName) -> None:
    """Check that there is a token with which ``upload`` can write; whether it may is known to the hub alone.

    Raises:
        UserError: there is none.
    """
    with _errors_of(name):
        from huggingface_hub import get_token

        if not get_token():
            raise UserError(f"{name}: push needs a token of the hub that may write: hf auth login, or set HF_TOKEN")


@contextlib.contextmanager
def _errors_of(name: HubName) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line.

    Raises:
        UserError: any error of the block.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("hub: needs the package huggingface_hub: pip install 'fromnoise[interop]'")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # anything can be wrong with the name, the network or the permissions
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        none = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        raise (NoRepository if none else UserError)(f"{name}: {_reason(name, error)}") from None


def _reason(name: HubName, error: Exception) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub import errors

    login = "log in with hf auth login, or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"its owner asks for consent: accept the conditions on the hub, then {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such model repository, or it is private: check the name, or {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no revision {name.revision or 'main'}"
    if status == 401:
        return f"the hub does not know the token: {login}"
    if status == 403:
        return f"the token may not do this: use one that may write to {name.repository.split('/')[0]}"
    if status is not None:
        return f"the hub answered {status} ({first_line(error)})"
    unreachable = isinstance(error, OSError) or "Connect" in type(error).__name__ or "Timeout" in type(error).__name__
    if unreachable:
        return "the hub cannot be reached, and what it was asked for is not in the cache: check the network"
    return first_line(error)
