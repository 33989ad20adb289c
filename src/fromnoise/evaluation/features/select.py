"""Features by name."""

from __future__ import annotations

from collections.abc import Callable

from fromnoise.data import Data
from fromnoise.evaluation.features.extractors import Features, Log, Watch, classifier, pixels, self_supervised
from fromnoise.evaluation.features.pretrained import dinov2, inception
from fromnoise.utils.device import Compute
from fromnoise.utils.errors import UserError


def choose(
    name: str | None,
    data: Data,
    *,
    compute: Compute,
    log: Log = lambda line: None,
    watch: Watch = lambda done, total: None,
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
    name = name or ("self-supervised" if data.labels is None else "classifier")
    makers: dict[str, Callable[[], Features]] = {
        "classifier": lambda: classifier(data, compute=compute, log=log, watch=watch),
        "self-supervised": lambda: self_supervised(data, compute=compute, log=log, watch=watch),
        "pixels": lambda: pixels(data),
        "inception": lambda: inception(compute),
        "dinov2": lambda: dinov2(compute),
    }
    if name not in makers:
        raise UserError(f"there are no features {name!r}: take {', '.join(makers)}")
    return makers[name]()
