"""fromnoise: its recipe of short budgets."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.checkpoint import load_model
from fromnoise.data import to_float
from fromnoise.pipeline import collect, sample_steps
from fromnoise.training.run import train
from fromnoise.utils.device import select_device
from peers.common import Budget, Task, Trained


def fast(task: Task, budget: Budget, bf16: bool) -> Trained:
    """``fromnoise train fast --minutes M``; its budget holds evaluations, previews and checkpoints too."""
    changes = {"data.source": task.source, "train.seed": task.seed, "sample.count": 0}
    changes |= {"train.minutes": budget.seconds / 60, "train.threads": torch.get_num_threads()}
    recipe = recipes.load("fast", changes)
    folder, precision = Path(tempfile.mkdtemp()), "auto" if bf16 else "fp32"
    result = train(recipe, folder, device="cpu", precision=precision)
    compute = select_device("cpu", precision)
    model = load_model(folder).model
    compute.to_device(model.denoiser)
    budget.used = result.seconds
    sampled = 0

    def sample(count: int) -> Tensor:
        nonlocal sampled
        ids = torch.arange(sampled, sampled + count)
        sampled += count
        labels = model.default_labels(ids, 0, False)
        return to_float(collect(sample_steps(model, model.recipe.sample, compute, ids=ids, label=labels)).images)

    own = model.recipe.sample
    name = f"{own.sampler.kind}, {own.steps} steps" + (f", guidance {own.guidance:g}" if own.guidance != 1 else "")
    batch, trained_in = model.recipe.train.batch, "bf16" if compute.dtype == torch.bfloat16 else "fp32"
    return Trained(model.denoiser, result.step, result.step * batch, result.seconds, {name: sample}, trained_in)
