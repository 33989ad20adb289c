"""Progress bars in terminals and notebooks."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def progress_bar(shown: bool | None = None, **options: Any) -> Any:
    """A progress bar of tqdm, on stderr or as a widget of a notebook.

    Args:
        shown: whether to show it; None does in terminals and notebooks.
        options: as of tqdm.
    """
    if in_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    if shown is None:
        shown = in_notebook() or sys.stderr.isatty()
    return tqdm(disable=not shown, **options)
