"""Features by name."""

from __future__ import annotations

from collections.abc import Callable

from fromnoise.data import Data
from fromnoise.evaluation.features.extractors import Features, Log, OnProgress, classifier, pixels, self_supervised
from fromnoise.evaluation.features.pretrained import dinov2, inception
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


def choose(
    name: str | None,
    data: Data,
    *,
    compute: ComputeConfig,
    log: Log = lambda line: None,
    on_step: OnProgress = lambda done, total: None,
) -> Features:
    """Features by name.

    Args:
        name: classifier, self-supervised, pixels, inception or dinov2; None takes the first where there are labels,
            else the second.
        data: the reference.
        compute: where networks run.
        log: takes lines for people.
        watch: called as a network is trained.

    Raises:
        UserError: unknown, or not to be had.
    """
    name = name or ("self-supervised" if data.class_names is None else "classifier")
    makers: dict[str, Callable[[], Features]] = {
        "classifier": lambda: classifier(data, compute=compute, log=log, on_step=on_step),
        "self-supervised": lambda: self_supervised(data, compute=compute, log=log, on_step=on_step),
        "pixels": lambda: pixels(data),
        "inception": lambda: inception(compute),
        "dinov2": lambda: dinov2(compute),
    }
    if name not in makers:
        raise UserError(f"there are no features {name!r}: take {', '.join(makers)}")
    return makers[name]()
