"""From a data SPEC to images of one shape, a part of them held out."""

from __future__ import annotations

from fromnoise.data.assembly import OnProgress, assemble, labels_of
from fromnoise.data.dataset import Data
from fromnoise.data.decoding import Resize
from fromnoise.data.source import Log, Source, default_log, select_split
from fromnoise.data.spec import open_splits, parse_spec


def _select_sources(spec: str, log: Log, skip_damaged: bool) -> tuple[Source, Source | None, str]:
    """Source to train on; source to hold out and its name, if the data set has a split for it."""
    name, split = parse_spec(spec)
    splits = open_splits(name, log, skip_damaged)
    if split is not None or "train" not in splits:
        return select_split(splits, split, spec), None, ""
    train = splits["train"]
    for own in ("test", "validation"):
        if own not in splits or len(splits[own]) == 0:
            continue
        if labels_of(train) is None or labels_of(splits[own]) is not None:
            return train, splits[own], f"its {own} split"
        log(f"the {own} split has no labels, so it is not used as held-out data")
    return train, None, ""


def load(
    spec: str,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: Resize = "lanczos",
    holdout: float = 0.05,
    seed: int = 0,
    memory_limit: int = 4 << 30,
    workers: int = 0,
    attributes: bool = False,
    skip_damaged: bool = False,
    log: Log = default_log,
    on_progress: OnProgress | None = None,
) -> Data:
    """Open a data set and bring its images to one shape.

    Held out is its own test split, otherwise its validation split, otherwise ``holdout`` of it, selected by ``seed``;
    if the SPEC names a split, always the latter.

    Args:
        spec: see ``fromnoise.data.spec``.
        size: side, or height and width; if omitted, that of the images if they agree, otherwise at most 64.
        channels: 1 grey, 3 RGB, 2 and 4 with alpha; if omitted, 1 if all images are grey, otherwise 3 (or as many as
            an array has).
        resize: filter with which images of another size are resized.
        holdout: share of the images to hold out, between 0 and 1; at least one image, at most half of them and 10,000.
        seed: selects the held-out images.
        memory_limit: bytes of pixels that are kept in memory; a larger data set is decoded on demand.
        workers: threads that decode; 0 for one per core, up to 8.
        attributes: use the numbers in a table beside the images (see ``label_table``) instead of classes.
        skip_damaged: leave out shards that are missing or damaged, instead of refusing.
        log: takes lines that say what was chosen and what was left out.
        on_progress: called as images are decoded into memory.

    Raises:
        UserError: the data are not available, no image can be read, or they cannot be brought to the shape.
    """
    train, held_out, held_out_name = _select_sources(spec, log, skip_damaged)
    return assemble(
        train,
        f"'{spec}'",
        held_out_source=held_out,
        held_out_name=held_out_name,
        size=size,
        channels=channels,
        resize=resize,
        holdout=holdout,
        seed=seed,
        memory_limit=memory_limit,
        workers=workers,
        attributes=attributes,
        log=log,
        on_progress=on_progress,
    )
