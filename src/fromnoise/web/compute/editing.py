"""Edits of an image of a run, as ``fromnoise edit`` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fromnoise import registry
from fromnoise.config.component import OptionError, parse_component
from fromnoise.data import to_float
from fromnoise.diffusion.inverse import InverseSolver, Mask
from fromnoise.editing import (
    Degradation,
    EditConfig,
    colorization,
    deblurring,
    interpolate,
    load_image,
    load_mask,
    place_on_canvas,
    restore,
    super_resolution,
    vary,
)
from fromnoise.pipeline import Pipeline, SampleStep
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError
from fromnoise.web.compute.models import open_model
from fromnoise.web.compute.sampling import check_guidance, parse_size, sampler_of, send_steps
from fromnoise.web.compute.sending import Send, pixels

_DEFAULT_SOLVER = "mmps"  # as of fromnoise edit


def edit(send: Send, run: str, request: dict[str, Any]) -> None:
    """Edit an image, and send each step."""
    model, sampling = open_model(run), request["sampling"]
    check_guidance(model, sampling)
    try:
        if request["kind"] == "interpolate":
            return _interpolate(send, model, Path(run), request)
        config, _ = model.sampling_config(sampler_of(sampling), sampling["steps"], sampling["guidance"])
        settings = EditConfig(
            model.model, config, model.compute, torch.arange(sampling["count"]), sampling["seed"], sampling["label"]
        )
        steps = _EDITS[request["kind"]](settings, Path(run), request)
        send_steps(send, model, steps, sampling["count"])
    except ValueError as error:
        raise UserError(str(error)) from None


def _solver(request: dict[str, Any]) -> InverseSolver:
    kind = request["method"] or _DEFAULT_SOLVER
    try:
        parsed = parse_component("inverse_solver", kind, {"kind": kind, **request["solver_options"]})
    except OptionError as error:
        raise UserError(f"--method {kind}: {f'{error.key}: ' if error.key else ''}{error}") from None
    return registry.build("inverse_solver", kind, parsed.options())


def _inpaint(edit: EditConfig, run: Path, request: dict[str, Any]) -> Iterator[SampleStep]:
    image = load_image(run / request["image"], edit.model.dataset_info.shape[0])
    size = (image.shape[-2], image.shape[-1])
    operator = Mask(load_mask(run / request["mask"], size))
    return restore(edit, operator, operator.forward(to_float(image)), size, _solver(request))


def _outpaint(edit: EditConfig, run: Path, request: dict[str, Any]) -> Iterator[SampleStep]:
    channels, height, width = edit.model.dataset_info.shape
    size = parse_size(request["sampling"]["size"]) if request["sampling"]["size"] else (height, width)
    canvas, known = place_on_canvas(load_image(run / request["image"], channels), size, None)
    operator = Mask(known)
    return restore(edit, operator, operator.forward(to_float(canvas)), size, _solver(request))


def _vary(edit: EditConfig, run: Path, request: dict[str, Any]) -> Iterator[SampleStep]:
    image = load_image(run / request["image"], edit.model.dataset_info.shape[0])
    return vary(edit, to_float(image), request["depth"])


def _restore(edit: EditConfig, run: Path, request: dict[str, Any]) -> Iterator[SampleStep]:
    degradation = _degradation(edit.model.dataset_info.shape[0], request)
    y = to_float(load_image(run / request["image"], degradation.channels))
    size = (y.shape[-2] * degradation.factor, y.shape[-1] * degradation.factor)
    return restore(edit, degradation.operator(*size), y, size, _solver(request))


def _degradation(channels: int, request: dict[str, Any]) -> Degradation:
    if request["restore"] == "upscale":
        return super_resolution(channels, int(request["factor"]))
    return deblurring(channels, request["factor"]) if request["restore"] == "deblur" else colorization(channels)


_EDITS = {"inpaint": _inpaint, "outpaint": _outpaint, "vary": _vary, "restore": _restore}


def _interpolate(send: Send, model: Pipeline, run: Path, request: dict[str, Any]) -> None:
    sampling, channels = request["sampling"], model.shape[0]
    ends = torch.cat([load_image(run / request[key], channels) for key in ("image", "to")])
    config, _ = model.sampling_config(sampler_of(sampling), sampling["steps"])
    compute = select_device(str(model.compute.device), "fp32")  # as of the command
    images = interpolate(model.model, config, compute, ends, request["depth"], request["points"], seed=sampling["seed"])
    shape, count = list(images.shape[1:]), len(images)
    send("begin", count=count, shape=shape, total=1, batches=1)
    content = pixels(images)
    send("step", content + content, index=0, total=1, t=request["depth"], s=0.0, first=0, count=count, labels=None)
    send("end")
