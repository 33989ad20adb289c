"""A record of the numbers of small models, to prove that a change of the code leaves them bit for bit as they were.

FROMNOISE_DATA=FOLDER python benchmarks/record.py --out FILE.json [--compare FILE.json]

Each model is trained for 60 steps, samples by every sampler, and measures code lengths and memberships, in fp32 and in
bf16, on one thread of the CPU. Floats are kept as hexadecimals, tensors as SHA-256 of their bytes. Records compare only
if they come from one machine with one version of torch and one compiler; FROMNOISE_DATA must hold mnist. All that is
called of fromnoise is in the part of the file that says so; the keys of the record stay whatever it is called.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of scikit-learn, whose threads are its own

import torch
from accelerate import Accelerator
from header import header
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.clustering.expectation import EStep
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import Data, MemoryImages, to_uint8
from fromnoise.diffusion.likelihood.e_step import EStepConfig, responsibilities
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.likelihood import LikelihoodEvaluator, random_subset
from fromnoise.model import Model, build
from fromnoise.pipeline import sample_steps
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device

STEPS, SAMPLES, SAMPLE_STEPS, CODED, SORTED = 60, 16, 12, 8, 64
SAMPLERS = "ancestral ddim euler heun dpmpp-2m dpmpp-3m dpmpp-2m-sde unipc ipndm pc sde".split()

# ---- of fromnoise: to be changed with its names

_ALL = {
    "train.steps": STEPS,
    "train.report_every": 1,
    "train.evaluations": 1,
    "train.previews": 0,
    "train.autosize": [],
}
_FAST = {"network.width": 16, "network.patch": 2, "network.attention_resolutions": [7], "train.batch": 16}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    # key in the record: recipe, changed keys, number of classes or pseudo-labels (0: no E-step)
    "digits": ("digits", {"network.width": 16, "train.batch": 32}, 0),
    "digits-labels": ("digits", {"network.width": 16, "train.batch": 32, "data.labels": True}, 10),
    "mnist-labels": ("mixture", {"network.width": 16, "network.patch": 4, "train.batch": 32}, 10),
    "mnist-clusters": ("fast", {"data.source": "mnist", "data.pseudo_labels": 8, **_FAST}, 8),
}


def opened(key: str) -> tuple[recipes.Recipe, Data]:
    """The recipe of a model of ``MODELS``, and its images."""
    name, changes, _ = MODELS[key]
    recipe = recipes.load(name, _ALL | changes)
    return recipe, open_data(recipe, lambda line: None)


def trainer_of(recipe: recipes.Recipe, data: Data, precision: str) -> TrainingLoop[Model]:
    """A loop that has not begun; ``precision`` is fp32 or bf16."""
    accelerator = Accelerator(cpu=True, mixed_precision="no", device_placement=False)
    loop = TrainingLoop(build(recipe, dataset_info(recipe, data)), data, select_device("cpu", precision), accelerator)
    loop.fit_pseudo_labels()
    return loop


def trained(loop: TrainingLoop[Model]) -> tuple[list[float], list[float], Model]:
    """Train; the loss of each step, the held-out losses, and the model with the averaged weights."""
    reports = list(loop.run())
    held_out = [v for r in reports for v in (r.held_out_loss, r.held_out_loss_raw) if v is not None]
    return [r.loss for r in reports], held_out, loop.ema_model()


def tensors(loop: TrainingLoop[Model]) -> dict[str, list[Tensor]]:
    """The trained weights, the averaged ones, and all that a checkpoint holds."""
    raw, averaged, state = loop.model.denoiser.state_dict(), loop.ema_state_dict(), loop.state()[0]
    return {"raw": list(raw.values()), "averaged": list(averaged.values()), "state": list(state.values())}


def samples(loop: TrainingLoop[Model], model: Model, sampler: str) -> tuple[Tensor, Tensor]:
    """Samples by a sampler of ``SAMPLERS`` with its defaults, guided as in the recipe: uint8, and floats.

    Heun's steps are those of the uniform grid, on which 0.1 took them; its default is another now.
    """
    changed: dict[str, Any] = {"sampler": sampler, "steps": SAMPLE_STEPS}
    if sampler == "heun":
        changed["grid"] = recipes.SamplingConfig(grid="uniform").grid
    config = model.recipe.sample.model_copy(update=changed)
    *_, last = sample_steps(model, config, loop.compute, ids=torch.arange(SAMPLES), seed=1)
    return to_uint8(last.step.x), last.step.x


def bits(loop: TrainingLoop[Model], model: Model) -> tuple[Tensor, Tensor]:
    """Code length of held-out images in bits per dimension by the bound and by the flow, (N,) each."""
    pixels, labels = random_subset(loop.data.held_out, model, CODED)
    evaluator = LikelihoodEvaluator(model, loop.compute)
    return evaluator.bound(pixels, labels, sampled_steps=32).each, evaluator.flow(pixels, labels, RungeKutta(8))


def memberships(loop: TrainingLoop[Model], model: Model, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """An E-step of held-out images: the step proposal (T,), the bounds (N, K) and the responsibilities (N, K)."""
    pixels = loop.data.held_out.get(torch.arange(SORTED))
    e_step = EStep.from_model(model, classes, loop.compute, 2)
    proposal = e_step.pilot_proposal(MemoryImages(pixels[:CODED]), 0.3)
    config = EStepConfig(probes=1, refine=6, candidates=3, confident=0.999)
    nats = torch.cat([bounds.nats for _, bounds in e_step.component_bounds(MemoryImages(pixels), proposal, config)])
    weights = torch.full((classes,), 1 / classes, dtype=torch.float64)
    return proposal.probability, nats, responsibilities(nats, weights)


# ---- the record


def record() -> Iterator[tuple[str, str | list[str]]]:
    """Keys and values of all models."""
    for key, (_, _, classes) in MODELS.items():
        recipe, data = opened(key)
        for precision in ("fp32", "bf16"):
            begun, at = time.perf_counter(), f"{key}/{precision}"
            loop = trainer_of(recipe, data, precision)
            losses, held_out, model = trained(loop)
            assert len(losses) == STEPS and len(held_out) == 4
            yield f"{at}/loss", hexes(losses)
            yield f"{at}/held-out loss", hexes(held_out)
            for name, each in tensors(loop).items():
                # sorted, so that the names of tensors do not count
                yield f"{at}/weights/{name}", sha("".join(sorted(map(digest, each))).encode())
            for sampler in SAMPLERS:
                pixels, x0 = samples(loop, model, sampler)
                assert len(pixels) == SAMPLES and bool(x0.isfinite().all())
                yield f"{at}/samples/{sampler}/uint8", digest(pixels)
                yield f"{at}/samples/{sampler}/float", digest(x0)
            for name, each in zip(("bound", "flow"), bits(loop, model), strict=True):
                yield f"{at}/bits/{name}", hexes(each.tolist())
            if classes:
                plan, nats, q = memberships(loop, model, classes)
                yield f"{at}/E-step/plan", digest(plan)
                for name, each in (("bounds", nats), ("responsibilities", q)):
                    yield f"{at}/E-step/{name}", digest(each)
                    yield f"{at}/E-step/{name} of the first image", hexes(each[0].tolist())
            print(f"{at}: {time.perf_counter() - begun:.0f} s", flush=True)


def hexes(values: list[float]) -> list[str]:
    """Floats, exactly."""
    return [float(v).hex() for v in values]


def digest(t: Tensor) -> str:
    """SHA-256 of dtype, shape and values, whatever the order in memory."""
    plain = t.detach().cpu().contiguous()
    return sha(f"{plain.dtype} {list(plain.shape)}".encode() + plain.reshape(-1).view(torch.uint8).numpy().tobytes())


def sha(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line for each key that is missing or has another value."""
    lines = []
    for key in sorted(before.keys() | now.keys()):
        a, b = before.get(key), now.get(key)
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            found = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            lines += [f"{key}: {len(found)} of {len(a)}, first [{i}] {a[i]} -> {b[i]}" for i in found[:1]]
        elif a != b:
            lines.append(f"{key}: {a} -> {b}")
    return lines


def main() -> int:
    """Record, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", type=Path, metavar="FILE", help="a record that was made before")
    args = parser.parse_args()
    before = json.loads(args.compare.read_text()) if args.compare else None
    torch.set_num_threads(1)
    here = {"torch": torch.__version__, "cpu": header().splitlines()[1], "threads": torch.get_num_threads()}
    print(json.dumps(here), flush=True)
    now = {"environment": here, "values": dict(record())}
    args.out.write_text(json.dumps(now, indent=0) + "\n")
    if before is None:
        return 0
    for line in differences(before["environment"], here):
        print(f"made elsewhere, not counted: {line}")
    lines = differences(before["values"], now["values"])
    count = sum(len(v) if isinstance(v, list) else 1 for v in now["values"].values())
    print("\n".join(lines) if lines else f"{count} values identical")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
