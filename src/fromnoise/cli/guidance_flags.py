"""The guidance flags, shared by the verbs that sample."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli import component_flags

if TYPE_CHECKING:
    from fromnoise.config import SamplingConfig
    from fromnoise.model import Model, Wrapper
    from fromnoise.utils.device import ComputeConfig

KEYS = ("clip", "guidance", "interval", "interval_logsnr", "threshold", "truncation")
"""The keys of ``SamplingConfig`` that have a flag here."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument_group("guidance").add_argument
    add("--label", metavar="L", help="a class by name or number, several with commas, or all; or age=30,height=1.8")
    add("--guidance", metavar="W", type=float, help="scale of guidance; 1 is none")
    component_flags.add_flag(parser, "guidance", "--guidance-method", "how the scale is applied")
    add("--interval", metavar="A,B", help="guide only at times t from A to B, as in 0.2,0.8")
    add("--interval-logsnr", metavar="A,B", help="guide only at these log-SNR, as in --interval-logsnr=-3,5")
    add("--autoguide", metavar="RUN", help="autoguidance by this weaker model: less trained, or smaller")
    add("--autoguidance", metavar="W", type=float, default=2.0, help="scale of --autoguide; 1 is none")
    add("--classifier", metavar="FILE", type=Path, help="classifier guidance by this classifier: see fromnoise guide")
    add("--classifier-scale", metavar="W", type=float, default=1.0, help="scale of --classifier; 0 is none")
    add("--clip", action=argparse.BooleanOptionalAction, help="clip x_0 to the pixel range at each step")
    add("--threshold", metavar="Q", type=float, help="quantile for dynamic thresholding instead of --clip: 0.995")
    add("--truncation", metavar="Z", type=float, help="truncate the noise to [-Z, Z], Z > 0")


def wrap(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> tuple[Model, Wrapper]:
    """The guidance that needs files besides the model: autoguidance and classifier guidance.

    Returns:
        The model, with the classifier's labels if there is one, and the wrapper of its denoiser.

    Raises:
        UserError: the other file does not match the model, or ``--classifier`` has no ``--label``.
    """
    from fromnoise.model import no_wrapper

    if args.autoguide is not None or args.classifier is not None:
        model.require_denoiser("guidance")
    autoguide = _autoguidance(args, model, compute)
    model, guide = _classifier(args, model, compute)
    if autoguide is guide is no_wrapper:
        return model, no_wrapper
    return model, lambda denoise: guide(autoguide(denoise))


def _classifier(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> tuple[Model, Wrapper]:
    from dataclasses import replace

    from fromnoise.diffusion import ClassifierGuidance
    from fromnoise.model import no_wrapper
    from fromnoise.training import noisy_classifier
    from fromnoise.utils.errors import UserError

    if args.classifier is None:
        return model, no_wrapper
    classifier = noisy_classifier.load_classifier(args.classifier, model)
    if args.label is None:
        raise UserError("--classifier needs a label: add --label with a class, or --label all")
    compute.to_device(classifier)
    labelled = replace(model, dataset_info=replace(model.dataset_info, class_names=classifier.dataset_info.class_names))
    return labelled, lambda denoise: ClassifierGuidance(denoise, classifier, args.classifier_scale)


def _autoguidance(args: argparse.Namespace, model: Model, compute: ComputeConfig) -> Wrapper:
    from fromnoise.checkpoint import load_model
    from fromnoise.diffusion import Autoguidance, Unconditional
    from fromnoise.model import no_wrapper

    if args.autoguide is None:
        return no_wrapper
    weak = load_model(args.autoguide).model
    _check_compatible(weak, model, args.autoguide)
    compute.to_device(weak.denoiser)
    conditional = weak.dataset_info.is_conditional or _same_pseudo_labels(weak, model)
    weak_denoise = weak.denoiser if conditional else Unconditional(weak.denoiser)
    return lambda denoise: Autoguidance(denoise, weak_denoise, args.autoguidance)


def _same_pseudo_labels(weak: Model, model: Model) -> bool:
    import torch

    a, b = model.denoiser.pseudo_labels, weak.denoiser.pseudo_labels
    return a is not None and b is not None and torch.equal(a.centroids.cpu(), b.centroids.cpu())


def _check_compatible(weak: Model, model: Model, name: str) -> None:
    import torch

    from fromnoise.utils.errors import UserError

    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    for what, own, other in (
        ("image size", model.dataset_info.shape, weak.dataset_info.shape),
        ("labels", model.dataset_info.class_names, weak.dataset_info.class_names),
        ("attributes", model.dataset_info.attributes, weak.dataset_info.attributes),
        ("noise levels", model.schedule.logsnr(t).tolist(), weak.schedule.logsnr(t).tolist()),
    ):
        if own != other:
            values = f" ({other}, not {own})" if what == "image size" else ""
            raise UserError(
                f"--autoguide {name} differs from the model in its {what}{values}: "
                "use an earlier or smaller model of the same data and noise schedule"
            )


def settings(own: SamplingConfig, args: argparse.Namespace, *keys: str) -> SamplingConfig:
    """Sampling settings changed by the flags of guidance, and by those of ``keys`` and the sampler.

    Another sampler comes with its own default steps and grid, and ``--autoguide`` replaces the recipe's autoguidance.

    Raises:
        UserError: a value is out of range.
    """
    from pydantic import ValidationError

    from fromnoise import registry
    from fromnoise.config.component import OptionError
    from fromnoise.config.messages import explain_value
    from fromnoise.model import no_wrapper, with_sampler
    from fromnoise.utils.errors import UserError

    sampler = component_flags.component_from_flags(args, "sampler", getattr(args, "sampler", None), own.sampler)
    method = component_flags.component_from_flags(
        args, "guidance", getattr(args, "guidance_method", None), own.guidance_method
    )
    flags = {k: getattr(args, k, None) for k in (*KEYS, *keys)} | {"guidance_method": method}
    try:
        own = own if sampler is None else with_sampler(own, sampler)
        config = own.model_copy(update={k: v for k, v in flags.items() if v is not None})
    except ValidationError as e:
        first = e.errors()[0]
        message = explain_value(first)
        if not first["loc"]:
            raise UserError(message) from None
        key, cause = str(first["loc"][0]), first.get("ctx", {}).get("error")
        family = "guidance" if key == "guidance_method" else key
        given = flags.get(key)
        value = "" if given is None else f" {given:g}" if isinstance(given, float) else f" {given}"
        flag = f"--{key.replace('_', '-')}{value}"
        if isinstance(cause, OptionError):
            flag, message = args.option_flags.get(family, {}).get(cause.key.split(".")[0], flag), str(cause)
        raise UserError(f"{flag}: {message}") from None
    if getattr(args, "autoguide", None) is not None and args.guidance is None and config.guides_by_early_version:
        config = config.model_copy(update={"guidance": 1.0})
    kind, options = config.guidance_method.kind, config.guidance_method.options()
    try:  # also where the scale is 1 and the method is not used
        registry.build("guidance", kind, options, denoise=no_wrapper, scale=1.0, weak=no_wrapper)
    except ValueError as e:
        raise UserError(f"--guidance-method {kind}: {e}") from None
    return config
