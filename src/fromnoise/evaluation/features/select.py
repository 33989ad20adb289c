"""Feature extractors by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from fromnoise.data import Data
from fromnoise.evaluation.features import trained
from fromnoise.evaluation.features.extractor import FeatureExtractor
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.features.pretrained import dinov2_features, inception_features
from fromnoise.evaluation.features.trained import Log, OnStep, classifier_features, self_supervised_features
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError


def select_features(
    name: str | None,
    data: Data,
    *,
    compute: ComputeConfig,
    log: Log = lambda line: None,
    on_step: OnStep = lambda done, total: None,
) -> FeatureExtractor:
    """A feature extractor by name.

    Args:
        name: classifier, self-supervised, pixels, inception or dinov2; None selects classifier for images with labels
            and self-supervised for others.
        data: the reference images.
        compute: device of the networks.
        log: called with lines for the user.
        on_step: called after each step of training a network.

    Raises:
        UserError: the name is unknown, or the extractor is not available.
    """
    check_features(name)
    name = name or _default_name(data)
    makers: dict[str, Callable[[], FeatureExtractor]] = {
        "classifier": lambda: classifier_features(data, compute=compute, log=log, on_step=on_step),
        "self-supervised": lambda: self_supervised_features(data, compute=compute, log=log, on_step=on_step),
        "pixels": lambda: PixelFeatures(data.shape),
        "inception": lambda: inception_features(compute),
        "dinov2": lambda: dinov2_features(compute),
    }
    return makers[name]()


def preparation_seconds(name: str | None, data: Data, reference: int, compute: ComputeConfig) -> float:
    """Estimated duration of ``select_features`` and of the features of real images, measured by a short trial.

    Args:
        name: as of ``select_features``.
        data: the reference images.
        reference: number of images whose features are computed.
        compute: device of the networks.

    Returns:
        Seconds; 0 for features that need no training, which are not measured.

    Raises:
        UserError: the name is unknown.
    """
    check_features(name)
    name = name or _default_name(data)
    trains = name == "self-supervised" or (name == "classifier" and data.class_names is not None)
    return trained.preparation_seconds(name, data, reference, compute) if trains else 0.0


def _default_name(data: Data) -> str:
    return "self-supervised" if data.class_names is None else "classifier"


NAMES = ("classifier", "self-supervised", "pixels", "inception", "dinov2")


def check_features(name: str | None) -> None:
    """Check the name of features.

    Raises:
        UserError: it is unknown.
    """
    if name is None or name in NAMES:
        return
    near = ["inception"] if name.lower() in ("fid", "kid") else difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--features {name} is unknown: {hint}choose from {', '.join(NAMES)}")
