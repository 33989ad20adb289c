"""Other libraries without the packages that they import for data, pictures and metrics, which are not used here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

MISSING = (
    "torchvision",
    "pytorch_fid",
    "gdown",
    "skimage",
    "cleanfid",
    "clip",
    "dctorch",
    "jsonmerge",
    "kornia",
)
"""What the libraries import and benchmarks and tests do without."""


class Empty(ModuleType):
    """A module in which every name is something that can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class Finder(MetaPathFinder, Loader):
    """Finds empty modules in place of those of ``MISSING``."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """An empty module for a package of ``MISSING``."""
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in MISSING else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See ``Loader``."""
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""
        return None


@contextmanager
def empty_modules() -> Iterator[None]:
    """Packages of ``MISSING`` that are not installed are empty modules, and gone afterwards."""
    finder, before = Finder(), set(sys.modules)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], Empty):
                del sys.modules[name]


def foreign(name: str) -> Any:
    """A module of another library, with empty modules where ``MISSING`` ones are not installed.

    Raises:
        ImportError: the library is not installed.
    """
    with empty_modules():
        return importlib.import_module(name)
