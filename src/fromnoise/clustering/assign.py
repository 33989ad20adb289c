"""Cluster posteriors of new images; for a model trained with class labels, the diffusion classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.checkpoint import DamagedFile, LoadedModel
from fromnoise.clustering.assignments import Assignments
from fromnoise.clustering.calibration import tempered
from fromnoise.clustering.expectation import EStep
from fromnoise.data import Data, MemoryImages, shuffled_indices
from fromnoise.diffusion.likelihood.code_length import StepProposal
from fromnoise.diffusion.likelihood.e_step import EStepConfig, responsibilities
from fromnoise.model import Model
from fromnoise.utils.device import ComputeConfig


def e_step_config(model: Model, probes: int | None, refine: int | None, candidates: int | None) -> EStepConfig:
    """The number of diffusion steps of each image: the recipe's, except for arguments that are not None."""
    config = model.recipe.clustering
    return EStepConfig(
        config.e_step_probes if probes is None else probes,
        config.e_step_refine if refine is None else refine,
        config.candidates if candidates is None else candidates,
    )


def assign(
    loaded: LoadedModel,
    data: Data,
    compute: ComputeConfig,
    config: EStepConfig,
    limit: int | None,
    seed: int,
    on_progress: Callable[[int], object] = lambda n: None,
) -> Assignments:
    """Posterior probabilities of the clusters or classes of a conditional model, by the model alone.

    Those of a model that was trained by EM are calibrated by the temperature that is stored with it.

    The images are all of ``data.train`` and, if both are parts of one split, ``data.held_out``.

    Args:
        loaded: the model; if it was not trained by EM, all classes have the same prior weight.
        data: in the model's shape.
        compute: device and precision.
        config: number of diffusion steps of each image.
        limit: number of images, selected by ``seed``; None for all.
        seed: of the selection and of the noise.
        on_progress: called with the number of images in each completed batch.
    """
    model = loaded.model
    names = model.dataset_info.class_names or ()
    parts = [data.train]
    if not set(data.train.rows.tolist()) & set(data.held_out.rows.tolist()):
        parts.append(data.held_out)
    rows = torch.cat([part.rows for part in parts])
    labels = torch.cat([part.labels for part in parts if part.labels is not None]) if data.class_names else None
    pixels = torch.cat([part.get(torch.arange(len(part))) for part in parts])
    chosen = rows.argsort()
    if limit is not None and limit < len(chosen):
        chosen = chosen[shuffled_indices(len(chosen), seed, range(limit)).sort().values]
    images = MemoryImages(pixels, rows=chosen)
    e_step = EStep.from_model(model, len(names), compute, seed)
    mixture = read_mixture(loaded, len(names), e_step.elbo.steps)
    temperature = model.recipe.clustering.temperature_last if mixture is not None else 1.0
    if mixture is None:
        mixture = StoredMixture(torch.full((len(names),), 1 / len(names), dtype=torch.float64))
    if mixture.proposal is not None:
        proposal = StepProposal(mixture.proposal)
    else:
        proposal = e_step.pilot_proposal(images, model.recipe.clustering.min_time)
    q = torch.empty(len(images), len(names), dtype=torch.float64)
    for ids, bounds in e_step.component_bounds(images, proposal, config):
        found = responsibilities(bounds.nats, mixture.weights, temperature)
        q[ids] = tempered(found, mixture.temperature)
        on_progress(len(ids))
    return Assignments(rows[chosen], q, names, labels[chosen] if labels is not None else None, data.class_names)


@dataclass(frozen=True)
class StoredMixture:
    """The mixture that EM has stored with a model.

    Attributes:
        weights: of the clusters, float64 (Q,).
        proposal: probabilities of the diffusion steps, float64 (T,); None before the first E-step.
        temperature: of calibrated probabilities by the model alone; 1 before the end of the run.
    """

    weights: Tensor
    proposal: Tensor | None = None
    temperature: float = 1.0


def read_mixture(loaded: LoadedModel, clusters: int, steps: int) -> StoredMixture | None:
    """The mixture that EM has stored with a model; None for a model that was not trained by EM.

    Args:
        loaded: the model.
        clusters: number of clusters, Q.
        steps: number of diffusion steps of the bound, T.

    Raises:
        DamagedFile: the file describes no mixture of this model.
    """
    stored = loaded.progress.get("mixture")
    if not stored:
        return None
    try:
        weights = torch.tensor(stored["weights"], dtype=torch.float64)
        proposal = torch.tensor(stored["proposal"], dtype=torch.float64) if stored["proposal"] else None
        temperature = float(stored.get("temperature", 1.0))
        fine = weights.shape == (clusters,) and _is_distribution(weights) and 0 < temperature < math.inf
        fine &= proposal is None or (proposal.shape == (steps,) and _is_distribution(proposal))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        fine = False
    if not fine:
        raise DamagedFile(f"{loaded.path}: its header does not describe a mixture of {clusters} clusters")
    return StoredMixture(weights, proposal, temperature)


def _is_distribution(probability: Tensor) -> bool:
    return bool(probability.isfinite().all()) and float(probability.min()) >= 0 and float(probability.sum()) > 0
