"""The flags of guidance, shared by the verbs that draw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromnoise.config import SamplingConfig
    from fromnoise.model import Model, Wrapper
    from fromnoise.utils.device import ComputeConfig

KEYS = ("clip", "guidance", "rescale", "interval", "interval_logsnr", "threshold", "truncation")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument_group("guidance").add_argument
    add("--label", metavar="L", help="a class by name or number, several with commas, or all; or age=30,height=1.8")
    add("--guidance", metavar="W", type=float, help="scale of classifier-free guidance; 1 is none")
    add("--rescale", metavar="SHARE", type=float, help="give guided images the contrast of unguided ones back: 0 to 1")
    add("--interval", metavar="A,B", help="guide at times t from A to B only, as in 0.2,0.8")
    add("--interval-logsnr", metavar="A,B", help="the same in log-SNR, as in --interval-logsnr=-3,5")
    add("--autoguide", metavar="RUN", help="guide away from a weaker model: less trained, or smaller")
    add("--autoguidance", metavar="W", type=float, default=2.0, help="scale of --autoguide; 1 is none")
    add("--classifier", metavar="FILE", type=Path, help="guide by this classifier: see fromnoise guide")
    add("--classifier-scale", metavar="W", type=float, default=1.0, help="scale of --classifier; 0 is none")
    add("--clip", action=argparse.BooleanOptionalAction, help="clip x_0 at each step")
    add("--threshold", metavar="Q", type=float, help="quantile of dynamic thresholding, in place of clip: 0.995")
    add("--truncation", metavar="Z", type=float, help="bound the numbers that noise is made of: 1 is tame")


def wrap(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> tuple[Model, Wrapper]:
    """The guidance that needs other files than the model's own, and the model with the labels that it then heeds.

    Raises:
        UserError: the other file does not go with this model, or no label was asked of a classifier.
    """
    by_weak = _autoguidance(args, model, compute)
    model, by_classifier = _classifier(args, model, compute)
    return model, lambda denoise: by_classifier(by_weak(denoise))


def _classifier(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> tuple[Model, Wrapper]:
    from dataclasses import replace

    from fromnoise.diffusion import ClassifierGuidance
    from fromnoise.model import no_wrapper
    from fromnoise.training import noisy_classifier as guides
    from fromnoise.utils.errors import UserError

    if args.classifier is None:
        return model, no_wrapper
    guide = guides.load(args.classifier, model)
    if args.label is None:
        raise UserError("--classifier guides to a label: name one with --label, or all")
    compute.to_device(guide)
    heeding = replace(model, dataset_info=replace(model.dataset_info, class_names=guide.dataset_info.class_names))
    return heeding, lambda denoise: ClassifierGuidance(denoise, guide, args.classifier_scale)


def _autoguidance(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> Wrapper:
    from fromnoise.checkpoint import load_model
    from fromnoise.diffusion import Autoguidance, Unconditional
    from fromnoise.model import no_wrapper

    if args.autoguide is None:
        return no_wrapper
    weak = load_model(args.autoguide).model
    _check_alike(weak, model, args.autoguide)
    compute.to_device(weak.denoiser)
    bad = (
        weak.denoiser
        if weak.dataset_info.is_conditional or _same_clusters(weak, model)
        else Unconditional(weak.denoiser)
    )
    return lambda denoise: Autoguidance(denoise, bad, args.autoguidance)


def _same_clusters(weak: Model, model: Model) -> bool:
    import torch

    here, there = model.denoiser.pseudo_labels, weak.denoiser.pseudo_labels
    return here is not None and there is not None and torch.equal(here.centroids.cpu(), there.centroids.cpu())


def _check_alike(weak: Model, model: Model, name: str) -> None:
    import torch

    from fromnoise.utils.errors import UserError

    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    for what, here, there in (
        ("images", model.dataset_info.shape, weak.dataset_info.shape),
        ("labels", model.dataset_info.class_names, weak.dataset_info.class_names),
        ("attributes", model.dataset_info.attributes, weak.dataset_info.attributes),
        ("noise levels", model.schedule.logsnr(t).tolist(), weak.schedule.logsnr(t).tolist()),
    ):
        if here != there:
            shown = f" ({there}, not {here})" if what == "images" else ""
            raise UserError(
                f"--autoguide {name} has other {what} than the model{shown}: take an earlier or smaller one"
            )


def settings(own: SamplingConfig, args: argparse.Namespace, *keys: str) -> SamplingConfig:
    """The recipe's way of sampling with what the flags change: those of guidance, and ``keys``.

    Raises:
        UserError: a value out of range.
    """
    from pydantic import ValidationError

    from fromnoise.utils.errors import UserError

    told = {k: getattr(args, k, None) for k in (*KEYS, *keys)}
    try:
        return type(own).model_validate(own.model_dump() | {k: v for k, v in told.items() if v is not None})
    except ValidationError as e:
        first = e.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise UserError(message) from None
        flag = str(first["loc"][0])
        raise UserError(f"--{flag.replace('_', '-')} {told[flag]}: {message}") from None


def check_labels(args: argparse.Namespace, model: Model) -> None:
    """Guidance by labels needs some.

    Raises:
        UserError: the model has none.
    """
    from fromnoise.utils.errors import UserError

    if (
        args.guidance not in (None, 1)
        and not model.dataset_info.is_conditional
        and model.denoiser.pseudo_labels is None
    ):
        raise UserError(f"--guidance {args.guidance:g} needs a model trained with labels: leave it out")
