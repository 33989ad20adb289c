"""The run directory: recipe.toml, reports.jsonl, model.safetensors, state/, samples/ and log.

``RunDir`` is imported when it is first used, so that the reports can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromnoise.run_dir.folder import RunDir, fixed_difference

__all__ = ["RunDir", "fixed_difference"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("fromnoise.run_dir.folder"), name)
    raise AttributeError(f"module 'fromnoise.run_dir' has no attribute {name!r}")
