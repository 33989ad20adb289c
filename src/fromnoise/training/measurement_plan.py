"""How many held-out losses, previews, evaluations and final samples a training budget allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fromnoise.config import Recipe, SamplingConfig
from fromnoise.training.trainable import Trainable

PREVIEW_COUNT = 16
"""Samples of a preview, for each set of weights."""
PREVIEW_STEPS = 20
"""DDIM steps of a preview, at most."""
MIN_SECONDS = 10.0
"""A budget in steps, epochs or images allows measurements of at least this duration in all."""
CHECKPOINT_PART = 0.25
"""Part of ``train.evaluation_share`` that is left for checkpoints."""


@dataclass(frozen=True)
class MeasurementCosts:
    """Seconds of one measurement of each kind.

    Attributes:
        held_out: a held-out loss with raw and averaged weights.
        preview: one preview.
        self_evaluation: the samples of one evaluation of section ``evaluation``.
        sample: one final sample.
        features: what comes before the first evaluation: training the network of its features, and the features of
            the training images.
    """

    held_out: float
    preview: float
    self_evaluation: float
    sample: float
    features: float = 0.0

    @staticmethod
    def estimate(
        model: Trainable, held_out_images: int, forward_seconds: float, features_seconds: float = 0.0
    ) -> MeasurementCosts:
        """Number of network evaluations of each measurement times their duration.

        Args:
            model: its recipe sets the measurements.
            held_out_images: number of held-out images.
            forward_seconds: of one image through the network, without gradients.
            features_seconds: of ``features``.
        """
        recipe = model.recipe
        versions = 1 + bool(recipe.ema.decays or recipe.ema.widths or recipe.ema.best_epoch)
        evaluated = min(recipe.evaluation.steps, recipe.timesteps or recipe.evaluation.steps)
        return MeasurementCosts(
            held_out=min(recipe.train.held_out, held_out_images) * versions * forward_seconds,
            preview=PREVIEW_COUNT * model.network_evaluations(preview_config(recipe)) * versions * forward_seconds,
            self_evaluation=recipe.evaluation.samples * evaluated * forward_seconds,
            sample=model.network_evaluations(recipe.sample) * forward_seconds,
            features=features_seconds,
        )


@dataclass(frozen=True)
class MeasurementPlan:
    """What a run measures and samples besides its training steps.

    Attributes:
        evaluations: held-out losses, spread evenly over the budget; the last is at its end.
        at_start: whether there are a held-out loss after the first step and a preview before it as well.
        previews: previews, spread evenly over the budget; the last is at its end.
        self_evaluations: evaluations of section ``evaluation``, spread likewise.
        final_samples: number of samples after training.
    """

    evaluations: int
    at_start: bool
    previews: int
    self_evaluations: int
    final_samples: int

    @staticmethod
    def from_recipe(recipe: Recipe) -> MeasurementPlan:
        """Everything that the recipe asks for."""
        train = recipe.train
        return MeasurementPlan(train.evaluations, True, train.previews, recipe.evaluation.times, recipe.sample.count)

    def seconds(self, costs: MeasurementCosts) -> float:
        """Estimated duration of all measurements."""
        return self._without_features(costs) + (self.self_evaluations > 0) * costs.features

    def _without_features(self, costs: MeasurementCosts) -> float:
        start = self.at_start * ((self.evaluations > 0) * costs.held_out + (self.previews > 0) * costs.preview)
        return (
            start
            + self.evaluations * costs.held_out
            + self.previews * costs.preview
            + self.self_evaluations * costs.self_evaluation
            + self.final_samples * costs.sample
        )

    def seconds_at_end(self, costs: MeasurementCosts) -> float:
        """Estimated duration of what follows the last training step."""
        return replace(
            self,
            evaluations=min(1, self.evaluations),
            at_start=False,
            previews=min(1, self.previews),
            self_evaluations=min(1, self.self_evaluations),
        )._without_features(costs)

    def within(self, seconds: float, costs: MeasurementCosts) -> MeasurementPlan:
        """The plan if it takes at most so long, otherwise the part of it that does.

        A third of the time is for the final samples, half of what is left then for evaluations, half of the rest for
        held-out losses, and the remainder for previews; what a kind does not need goes to the others in this order.
        """
        if self.seconds(costs) <= seconds:
            return self
        kinds = {
            "final_samples": (1 / 3, costs.sample, 0.0),
            "self_evaluations": (1 / 2, costs.self_evaluation, costs.features),
            "evaluations": (1 / 2, costs.held_out, 0.0),
            "previews": (1.0, costs.preview, 0.0),
        }
        left, counts = seconds, dict.fromkeys(kinds, 0)
        for everything in (False, True):
            for kind, (part, cost, first) in kinds.items():
                first = 0.0 if counts[kind] else first
                wanted, available = getattr(self, kind) - counts[kind], (1.0 if everything else part) * left - first
                more = max(0, min(wanted, int(available / cost) if cost > 0 else wanted * (available >= 0)))
                counts[kind] += more
                left -= more * cost + (first if more else 0.0)
        found = MeasurementPlan(at_start=True, **counts)
        return found if found.seconds(costs) <= seconds else replace(found, at_start=False)

    def describe_cuts(self, wanted: MeasurementPlan) -> str:
        """What of ``wanted`` is left out, in words; empty if nothing is."""
        pairs = (
            (self.evaluations, wanted.evaluations, "held-out losses"),
            (self.previews, wanted.previews, "previews"),
            (self.self_evaluations, wanted.self_evaluations, "evaluations"),
            (self.final_samples, wanted.final_samples, "final samples"),
        )
        return ", ".join(f"{here} of {there} {name}" for here, there, name in pairs if here != there)


def preview_config(recipe: Recipe) -> SamplingConfig:
    """Sampling of previews: few DDIM steps, or the few steps of a distilled model."""
    config = recipe.sample
    if recipe.loss.objective.kind == "consistency":
        return config
    steps = min(PREVIEW_STEPS, config.steps or PREVIEW_STEPS, recipe.timesteps or PREVIEW_STEPS)
    return SamplingConfig(sampler="ddim", steps=steps, clip=config.clip)


def allowance(share: float, training_seconds: float, in_minutes: bool) -> float:
    """Seconds that a run's measurements may take, without its checkpoints.

    Args:
        share: ``train.evaluation_share``.
        training_seconds: a budget in minutes, or the estimated duration of a budget in steps.
        in_minutes: whether the budget is in minutes; others allow at least ``MIN_SECONDS``, because a short run of a
            small network is otherwise never sampled.
    """
    seconds = share * (1 - CHECKPOINT_PART) * training_seconds
    return seconds if in_minutes else max(seconds, MIN_SECONDS)


def is_due(used_before: float, used_now: float, times: int) -> bool:
    """Whether one of ``times`` equal parts of the budget ends between two fractions of it used."""
    return int(used_before * times) != int(used_now * times)
