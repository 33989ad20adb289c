"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from fromnoise.data.source import SPLITS, Log, Splits
from fromnoise.data.tables import table_splits
from fromnoise.utils.errors import UserError


def open_hub(name: str, log: Log) -> Splits:
    """Open a data set of the Hugging Face hub, which `datasets` downloads into its own cache.

    Args:
        name: ``owner/name`` or ``owner/name/config``.
        log: takes a line before a download.

    Raises:
        UserError: it cannot be downloaded, or holds no images.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data sets of the hub need the package datasets: pip install 'fromnoise[datasets]'") from None
    if not name.strip("/"):
        raise UserError("'hub:' names no data set; write hub:owner/name, as in hub:ylecun/mnist")
    repo, config = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:]) or None
    log(f"hub:{name}: looking in the cache of datasets, then on the hub")
    try:
        found = datasets.load_dataset(repo, config)
    except Exception as error:  # anything can be wrong with the name, the network, the permissions or the data set
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'hub:{name}' cannot be loaded from the Hugging Face hub: {reason}") from None
    tables = {SPLITS.get(str(s), str(s)): part.data.table for s, part in found.items()}
    return table_splits(tables, f"hub:{name}", folders=_download_folders())


def _download_folders() -> list[Path]:
    """Where `datasets` stores what it downloads, which the paths in a table may lead to."""
    from datasets import config

    names = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH")
    folders = [getattr(config, name, None) for name in names]
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        HF_HUB_CACHE = None
    return [Path(folder) for folder in (*folders, HF_HUB_CACHE) if folder]
