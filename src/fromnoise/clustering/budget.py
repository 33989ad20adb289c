"""What a clustering run does besides training steps: held-out losses, and E-steps, whose duration is forecast."""

from __future__ import annotations

from fromnoise.config import Recipe
from fromnoise.diffusion.likelihood.e_step import EStepConfig
from fromnoise.training.forecast import OtherWork
from fromnoise.training.measurement_plan import MeasurementPlan


def wanted_measurements(recipe: Recipe) -> MeasurementPlan:
    """Held-out losses alone: a clustering run has no previews, and its report has samples of each cluster."""
    return MeasurementPlan(recipe.train.evaluations, True, 0, 0, 0)


def e_steps(recipe: Recipe, images: int, remaining: int, forward_seconds: float, done: int = 0) -> OtherWork:
    """The E-steps that are left, at most: an image whose cluster is clear is not evaluated so often.

    Args:
        recipe: of the run.
        images: number of images that are clustered.
        remaining: number of images that are assigned to clusters after training.
        forward_seconds: of one image through the network.
        done: number of E-steps done.
    """
    config = recipe.clustering
    evaluations = EStepConfig(config.e_step_probes, config.e_step_refine, config.candidates).nfe(config.count)
    image, left = evaluations * forward_seconds, max(0, config.rounds - done)
    last = image * (images * (left > 0) + remaining)
    return OtherWork(image * (images * left + remaining), last, f"{left} E-step{'s' if left != 1 else ''}")
