"""Samples: sent step by step, kept for saving, and noised again for the forward process."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fromnoise.data import to_float, to_uint8
from fromnoise.data.dataset_info import conditioning_for
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.pipeline import Autoencoder, Pipeline, Samples, SampleStep, collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import read_bytes
from fromnoise.web.compute.models import open_model, open_trained
from fromnoise.web.compute.sending import Send, pixels

MAX_BYTES = 96 << 20
"""Bytes of the frames that one job sends, at most; of more steps, some are left out."""
_BATCH = 64  # as of fromnoise sample
_FRAMES = 100  # of a GIF, as of fromnoise sample
_KEPT = 3

_samples: dict[str, Samples] = {}


def steps_of(model: Pipeline | Autoencoder, sampling: dict[str, Any]) -> Iterator[SampleStep]:
    """The sampling loop of a request; of a variational autoencoder it is one step.

    Args:
        model: which samples.
        sampling: the values of a ``SamplingRequest``.

    Raises:
        UserError: a setting does not fit the model.
    """
    if isinstance(model, Autoencoder):
        return _decoded(model, sampling)
    check_guidance(model, sampling)
    size = sampling["size"]
    try:
        return model.steps(
            sampling["count"],
            sampler=sampler_of(sampling),
            steps=sampling["steps"],
            seed=sampling["seed"],
            label=sampling["label"],
            guidance=sampling["guidance"],
            size=parse_size(size) if size else None,
            batch=_BATCH,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _decoded(model: Autoencoder, sampling: dict[str, Any]) -> Iterator[SampleStep]:
    for key in ("sampler", "steps", "guidance"):
        if sampling[key] is not None:
            raise UserError(f"{key} is for diffusion: a variational autoencoder samples in one pass; leave it out")
    return sample_steps(
        model.model,
        model.model.recipe.sample,
        model.compute,
        ids=torch.arange(sampling["count"]),
        seed=sampling["seed"],
        label=sampling["label"],
        batch=_BATCH,
        size=parse_size(sampling["size"]) if sampling["size"] else None,
    )


def sampler_of(sampling: dict[str, Any]) -> dict[str, Any] | None:
    """The sampler of a request with its options; None for the recipe's."""
    return {"kind": sampling["sampler"], **sampling["options"]} if sampling["sampler"] else None


def check_guidance(model: Pipeline, sampling: dict[str, Any]) -> None:
    """Check that a model which is to be guided can be.

    Raises:
        UserError: it cannot.
    """
    if sampling["guidance"] not in (None, 1) and not model.model.is_guidable:
        raise UserError("guidance needs a model trained with labels: leave it out")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``32`` or ``32x48``."""
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def sample(send: Send, run: str, sampling: dict[str, Any]) -> None:
    """Sample, and send each step."""
    model = open_trained(run)
    samples = send_steps(send, model, steps_of(model, sampling), sampling["count"])
    _keep(_key(run, model, sampling), samples)


def send_steps(
    send: Send, model: Pipeline | Autoencoder, steps: Iterator[SampleStep], count: int, batch: int = _BATCH
) -> Samples:
    """Send each step of a sampling loop: x_s and the estimate of x_0, and at the end the time.

    Args:
        send: receives an event ``step`` with uint8 (B, C, H, W) of x_s and as much of x_0, and an event ``end``.
        model: which samples.
        steps: the loop.
        count: number of all samples.
        batch: samples of a batch.

    Returns:
        The samples.

    Raises:
        UserError: as the loop, or the samples are not finite.
    """
    stride, names = 0, model.model.dataset_info.class_names

    def on_step(reached: SampleStep) -> None:
        nonlocal stride
        step = reached.step
        images = reached.images
        if not stride:
            each = 2 * count * images[0].numel() * step.total
            stride = max(1, math.ceil(each / MAX_BYTES))
            shape = list(images.shape[1:])
            send("begin", count=count, shape=shape, total=step.total, batches=math.ceil(count / batch))
        if step.index % stride and not reached.last:
            return
        content = pixels(images) + pixels(reached.x0)
        labels = reached.cond.tolist() if reached.last and reached.cond is not None and names else None
        send(
            "step",
            content,
            index=step.index,
            total=step.total,
            t=round(float(step.level_t.t), 5),
            s=round(float(step.level_s.t), 5),
            first=int(reached.ids[0]),
            count=len(images),
            labels=[names[k] if k >= 0 else "" for k in labels] if labels and names else None,
        )

    samples = collect(steps, _FRAMES, on_step)
    send("end")
    return samples


def _key(run: str, model: Pipeline | Autoencoder, sampling: dict[str, Any]) -> str:
    return json.dumps([run, id(model), sampling], sort_keys=True)


def _keep(key: str, samples: Samples) -> None:
    _samples.pop(key, None)
    _samples[key] = samples
    while len(_samples) > _KEPT:
        del _samples[next(iter(_samples))]


def samples_of(run: str, sampling: dict[str, Any]) -> Samples:
    """The samples of a request: those that were kept, or sampled again, which gives the same.

    Raises:
        UserError: as ``steps_of``.
    """
    model = open_trained(run)
    key = _key(run, model, sampling)
    if key not in _samples:
        _keep(key, collect(steps_of(model, sampling), _FRAMES))
    return _samples[key]


def save(send: Send, run: str, sampling: dict[str, Any], kind: str) -> None:
    """Send samples as the file that ``fromnoise sample`` writes: png, npz or gif."""
    samples = samples_of(run, sampling)
    names = open_trained(run).model.dataset_info.class_names

    def write(path: Path) -> None:
        if kind == "gif":
            return image_io.save_gif(samples.frames, path)
        labels = samples.labels if sampling["label"] is not None and names is not None else None
        image_io.save_images(samples.images, path, labels, names=names if sampling["label"] == "all" else None)

    send("end", as_file(write, f"samples.{kind}"))


def as_file(write: Callable[[Path], None], name: str) -> bytes:
    """The content of the file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return read_bytes(path)


def forward(send: Send, run: str, sampling: dict[str, Any]) -> None:
    """Noise samples again at the levels of their sampler, and send x_t and the estimate of x_0 at each.

    x_t = alpha_t x_0 + sigma_t eps, with the same eps at all t; x_0 are the latents of a model of latents
    """
    model = open_model(run)
    samples = samples_of(run, sampling)
    images = samples.images[:_BATCH]
    config, _ = model.sampling_config(sampler_of(sampling), sampling["steps"], sampling["guidance"])
    levels = [level for level in model.model.levels(config) if float(level.t) > 0]
    stride = max(1, math.ceil(2 * images.numel() * len(levels) / MAX_BYTES))
    compute, ids = model.compute, torch.arange(len(images))
    x0 = to_float(images.to(compute.device)).contiguous(memory_format=compute.memory_format)
    with torch.inference_mode(), compute.autocast():
        clean = model.model.encode(x0).to(x0)
    eps = Noise(sampling["seed"], ids).normal(tuple(clean.shape[1:]), Stream.EPS, like=clean)
    info = model.model.dataset_info
    cond = samples.labels[:_BATCH] if samples.labels is not None else conditioning_for(info, sampling["label"], ids)
    cond = cond.to(compute.device) if cond is not None else None
    denoise = model.model.guided(config)
    shape = list(images.shape[1:])
    send("begin", count=len(images), shape=shape, total=len(levels), batches=1)
    for index, level in enumerate(levels):
        if index % stride and index < len(levels) - 1:
            continue
        x = level.noisy(clean, eps).to(clean)
        with torch.inference_mode(), compute.autocast():
            shown = model.model.decode(x), model.model.decode(denoise(x, level, cond, None).x0)
        t = round(float(level.t), 5)
        content = b"".join(pixels(to_uint8(image).cpu()) for image in shown)
        send("step", content, index=index, total=len(levels), t=t, s=t, first=0, count=len(images), labels=None)
    send("end")
