"""Export to ONNX: the network, the numbers of every sampling step, and a program that samples without torch."""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.config import SamplingConfig
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.interop.exporting import Exporter, sampling_with, unwritten_guidance, without_autoguidance
from fromnoise.interop.importing import check_out
from fromnoise.interop.step_coefficients import NotLinear, prediction_coefficients, step_coefficients
from fromnoise.model import Model
from fromnoise.registry import register
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import first_line

_OPSET = 17
RUNNER = Path(__file__).parent / "onnx_runner"
"""The program that samples, and its random numbers, which are copied beside the model."""


@register("exporter", "onnx")
@dataclass(frozen=True)
class OnnxExport(Exporter):
    """A folder with model.onnx, steps.json, and sample.py, which samples with onnxruntime and numpy alone.

    Attributes:
        sampler: sampler whose steps are written; left out: that of the recipe
        steps: number of steps; left out: that of the recipe or the sampler
        guidance: guidance scale; left out: that of the recipe
    """

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None

    def check_out(self, out: Path) -> None:
        """A new or empty folder."""
        check_out(out)
        if out.suffix in (".safetensors", ".onnx"):
            raise UserError(f"{out}: give --out the name of a folder")

    def write(self, model: Model, out: Path) -> list[str]:
        """Write the four files."""
        if importlib.util.find_spec("onnx") is None:
            raise UserError("export to onnx needs the package onnx: pip install 'fromnoise[onnx]'")
        model.require_pixels("export to onnx")
        config = sampling_with(model, self.sampler, steps=self.steps, guidance=self.guidance)
        config, notes = without_autoguidance(config, self.guidance)
        steps = step_numbers(model, config)
        network = onnx_bytes(model)
        write_atomic(out / "model.onnx", network)
        write_atomic(out / "steps.json", (json.dumps(steps, indent=1, allow_nan=False) + "\n").encode())
        for name in ("sample.py", "noise.py"):
            write_atomic(out / name, (RUNNER / name).read_bytes())
        height, width = model.dataset_info.shape[1:]
        return [
            f"network for batches of any size and images of {height}x{width} pixels; "
            f"{len(steps['steps'])} steps of sampler {steps['sampler']}",
            f"pip install onnxruntime numpy && python {out / 'sample.py'} -n 16 --out samples.npz",
            *notes,
        ]


def step_numbers(model: Model, config: SamplingConfig) -> dict[str, Any]:
    """The content of steps.json.

    ``shape`` (C, H, W); ``clip`` whether x_0 is clipped to [-1, 1]; ``guidance`` scale; ``offset_noise``; ``null``, the
    condition that stands for none; ``history``, the largest ``ago``; and ``steps``, each with
    ``prediction_coefficients`` and ``next``, its ``step_coefficients``.

    Raises:
        UserError: the sampling cannot be written as numbers.
    """
    sampler = model.sampler(config)
    refused = {
        "sample.threshold": config.threshold is not None,
        "sample.truncation": config.truncation is not None,
        "a learned variance": model.denoiser.learned_variance and getattr(sampler, "variance", 0) is None,
        (guidance := unwritten_guidance(model, config)) or "": guidance is not None,
    }
    for what in (name for name, used in refused.items() if used):
        raise UserError(f"export to onnx: {what} is not written: export with --sampler ddim or --guidance 1")
    levels = model.levels(config, sampler)
    try:
        terms = step_coefficients(sampler, levels)
    except NotLinear as error:
        raise UserError(
            f"export to onnx: sampler {config.sampler.kind} cannot be written, because {error}: use --sampler dpmpp-2m"
        ) from None
    info = model.dataset_info
    return {
        "sampler": config.sampler.kind,
        "shape": list(info.shape),
        "clip": config.clip,
        "guidance": config.guidance,
        "offset_noise": model.recipe.loss.offset_noise,
        "null": [None] * len(info.attributes) if info.attributes else -1,
        "history": max(ago for step in terms for _, ago, _ in step),
        "steps": [
            prediction_coefficients(model.denoiser, level) | {"next": step}
            for level, step in zip(levels[:-1], terms, strict=True)
        ],
    }


def onnx_bytes(model: Model) -> bytes:
    """The network as ONNX: inputs ``x``, ``t``, and ``cond`` and ``previous`` where it takes them; one output.

    Raises:
        UserError: torch cannot express it.
    """
    info = model.dataset_info
    step = _Step(copy.deepcopy(model.denoiser).cpu().float().eval().requires_grad_(False))
    x, t = torch.zeros(2, *info.shape), torch.ones(2)
    inputs: dict[str, Tensor] = {"x": x, "t": t}
    classes = info.class_names is not None or model.denoiser.pseudo_labels is not None
    if info.attributes:
        inputs["cond"] = torch.zeros(2, len(info.attributes))
    elif classes:
        inputs["cond"] = torch.zeros(2, dtype=torch.int64)
    if model.denoiser.self_conditioning:
        inputs["previous"] = x
    step.names = tuple(inputs)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of sizes that become constants, which they are
            torch.onnx.export(
                step,
                tuple(inputs.values()),
                str(Path(folder) / "model.onnx"),
                dynamo=False,  # the other exporter needs a further package
                input_names=list(inputs),
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in (*inputs, "output")},
                opset_version=_OPSET,
            )
            return (Path(folder) / "model.onnx").read_bytes()
    except Exception as error:  # torch raises many kinds
        kind = model.recipe.network.kind
        raise UserError(f"export to onnx: network {kind} cannot be written ({first_line(error)})") from error


class _Step(nn.Module):
    """The network with its condition and its previous estimate, by position."""

    names: tuple[str, ...] = ()

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.network = denoiser.network
        self.clip, self.learned_variance = denoiser.self_conditioning_clip, denoiser.learned_variance

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        x = given["x"]
        if "previous" in given:
            previous = given["previous"]
            x = torch.cat([x, previous.clamp(-1, 1) if self.clip else previous], dim=1)
        out = self.network(x, given["t"], given.get("cond"))
        return out.chunk(2, dim=1)[0] if self.learned_variance else out
