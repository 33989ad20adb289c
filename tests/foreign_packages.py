"""denoising-diffusion-pytorch without torchvision, which it imports for its data set and to save pictures."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from types import ModuleType

import pytest


def import_lucidrains() -> ModuleType:
    """The package; ``torchvision`` and ``pytorch_fid`` are empty modules while it is imported, if they are missing."""
    stubs = {}
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        stub = types.ModuleType(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stubs[name] = stub
    stubs["torchvision"].transforms = stubs["torchvision.transforms"]  # type: ignore[attr-defined]
    stubs["torchvision"].utils = stubs["torchvision.utils"]  # type: ignore[attr-defined]
    missing = [name for name in stubs if importlib.util.find_spec("torchvision") is None and name not in sys.modules]
    sys.modules.update({name: stubs[name] for name in missing})
    try:
        return pytest.importorskip("denoising_diffusion_pytorch", exc_type=ImportError)
    finally:
        for name in missing:
            del sys.modules[name]
