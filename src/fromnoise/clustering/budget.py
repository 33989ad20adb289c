"""What a clustering run does besides training steps: held-out losses, and E-steps, whose duration is forecast."""

from __future__ import annotations

from fromnoise.clustering.expectation import BOUND_IMAGES, BOUND_STEPS
from fromnoise.config import Recipe
from fromnoise.diffusion.likelihood.e_step import EStepConfig
from fromnoise.training.forecast import OtherWork
from fromnoise.training.measurement_plan import MeasurementPlan


def wanted_measurements(recipe: Recipe) -> MeasurementPlan:
    """Held-out losses alone: a clustering run has no previews, and its report has samples of each cluster."""
    return MeasurementPlan(recipe.train.evaluations, True, 0, 0, 0)


def e_steps(recipe: Recipe, images: int, remaining: int, forward_seconds: float, done: int = 0) -> OtherWork:
    """The E-steps that are left, at most: an image whose cluster is clear is not evaluated so often.

    Each E-step includes the cross-fitted bound of some of the images.

    Args:
        recipe: of the run.
        images: number of images that are clustered.
        remaining: number of images that are assigned to clusters after training, or assessed for calibration.
        forward_seconds: of one image through the network.
        done: number of E-steps done.
    """
    config = recipe.clustering
    evaluations = EStepConfig(config.e_step_probes, config.e_step_refine, config.candidates).nfe(config.count)
    # both q of the bound have their own candidates
    bound = 2 * BOUND_STEPS * min(2 * config.candidates, config.count) * min(BOUND_IMAGES, images) * forward_seconds
    image, left = evaluations * forward_seconds, max(0, config.rounds - done)
    one, rest = image * images + bound, image * remaining
    return OtherWork(one * left + rest, one * (left > 0) + rest, f"{left} E-step{'s' if left != 1 else ''}")
