"""Temperatures of a finished run: from given labels, or from how far its clusters can be reproduced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from fromnoise.clustering.calibration import temperature_from_labels, temperature_from_repeats, temperature_of_mean
from fromnoise.clustering.em import EM
from fromnoise.clustering.expectation import EStep
from fromnoise.clustering.scores import match_classes
from fromnoise.data import Images, MemoryImages
from fromnoise.diffusion.likelihood.code_length import StepProposal

REPEATS = 3
_LEAST, _MOST, _PART = 100, 500, 0.1  # images that are assessed three times, the last as a part of all
FEWEST_LABELS = 20
"""Given labels that probabilities are calibrated by, at least."""
_LABELLED = 500  # images with given labels that are assessed, at most
_SEED = 1_000_003  # added to the run's seed: noise that neither the E-steps nor the pilot have


@dataclass(frozen=True)
class Calibration:
    """Temperatures of the probabilities of a run.

    Attributes:
        temperature: of the responsibilities of the clustered images, which contain the initial clusters' likelihood.
        model_temperature: of responsibilities by the model alone, as of new images.
        labels: number of given labels that the temperatures were fitted to; 0 without.
        repeated: number of images that were assessed three times.
        agreement: fraction of these whose cluster is the same in two assessments, mean over the pairs.
        reproduced: fraction of all images whose cluster is the same as by clusters found in a random half of the
            start's features, mean over the halves; None with given labels, and for a start without features.
    """

    temperature: float
    model_temperature: float
    labels: int
    repeated: int
    agreement: float
    reproduced: float | None

    @property
    def source(self) -> str:
        """What the temperatures are from."""
        if self.labels:
            return f"{self.labels} given labels"
        return "repeated assessments" + (" and halves of the features" if self.reproduced is not None else "")

    def json(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return dict(self.__dict__) | {"source": self.source}


def assessed_images(images: int, given: int = 0) -> int:
    """The number of assessments that ``calibrate`` makes, each as costly as an image of an E-step.

    Args:
        images: number of images that are clustered.
        given: number of them with given labels.
    """
    return REPEATS * _repeated(images) + _labelled(given)


def _repeated(images: int) -> int:
    return min(images, _MOST, max(_LEAST, round(_PART * images)))


def _labelled(given: int) -> int:
    return min(given, _LABELLED) if given >= FEWEST_LABELS else 0


def calibrate(em: EM, halves: Tensor | None = None) -> Calibration:
    """Find the temperatures of a run after its last E-step.

    Given labels are used if there are 20 or more. The E-steps have fixed the responsibilities of their images, so these
    are assessed anew; the initial clusters' likelihood of these images must not contain their own label. The model was
    trained with their labels, so its assessments of them are somewhat better than of other images.

    Without labels, the mean probability is at most the fraction of images whose cluster is found again from a random
    half of the start's features, and no temperature is below the one from repeats.

    Args:
        em: the run.
        halves: clusters of the N images that were found in halves of the features, int64 (H, N); None without features.
    """
    e_step, count = em.averaged_e_step(), len(em.images)
    seed = em.loop.config.seed + _SEED
    ids = torch.linspace(0, count - 1, _repeated(count)).round().long()
    nats = [_assess(em, replace(e_step, seed=seed + i), ids) for i in range(REPEATS)]
    clusters = [(part + em.state.encoder_nats[ids]).argmin(1) for part in nats]
    agreement = [float((a == b).double().mean()) for a, b in combinations(clusters, 2)]
    least = [temperature_from_repeats([_log_joint(em, x, ids, w) for x in nats]) for w in (1.0, 0.0)]
    known = (em.given >= 0).nonzero().flatten() if em.given is not None else ids[:0]
    labels, reproduced = _labelled(len(known)), None
    own, alone = least
    if em.given is not None and labels:
        known = known[torch.linspace(0, len(known) - 1, labels).round().long()]
        found, truth = _assess(em, replace(e_step, seed=seed), known), em.given[known]
        own, alone = (temperature_from_labels(_posterior(em, found, known, w), truth) for w in (1.0, 0.0))
    elif halves is not None:
        reproduced = float(torch.stack([_agreement(half, em.state.q.argmax(1)) for half in halves]).mean())
        own = max(own, temperature_of_mean(em.state.q, reproduced))
        alone = max(alone, temperature_of_mean(_posterior(em, nats[0], ids, 0.0), reproduced))
    return Calibration(own, alone, labels, len(ids), sum(agreement) / len(agreement), reproduced)


def _agreement(clusters: Tensor, others: Tensor) -> Tensor:
    """The fraction of images in matching clusters of two partitions, int64 (N,)."""
    return (match_classes(clusters, others)[clusters] == others).double().mean()


def _posterior(em: EM, nats: Tensor, ids: Tensor, initial: float) -> Tensor:
    return torch.softmax(_log_joint(em, nats, ids, initial), 1)


def _log_joint(em: EM, nats: Tensor, ids: Tensor, initial: float) -> Tensor:
    """The log joint density log pi - (L + ``initial`` times the initial clusters' nats) / temperature, (n, Q)."""
    total = nats + initial * em.state.encoder_nats[ids]
    return em.state.weights.log() - total / em.config.temperature_last


def _assess(em: EM, e_step: EStep, ids: Tensor) -> Tensor:
    """L_c of the images ``ids`` with the noise of an E-step's seed, float64 (n, Q)."""
    images: Images = MemoryImages(em.images.get(ids))
    proposal, offsets = StepProposal(em.state.proposal), em.state.encoder_nats[ids]
    batches = e_step.component_bounds(images, proposal, em.e_step_config, 0, offsets)
    return torch.cat([bounds.nats for _, bounds in batches])
