"""What a distilled model lost: its distance to real images beside that of its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise import checkpoint, registry
from fromnoise.config import SamplingConfig
from fromnoise.data import Data
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.feature_stats import FeatureStats, gather_stats
from fromnoise.evaluation.features.extractor import FeatureExtractor
from fromnoise.evaluation.features.select import select_features
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.evaluation.model_source import ModelSource
from fromnoise.evaluation.sources import RealImages
from fromnoise.model import Model
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

LOST = ("likelihoods (bits)", "guidance scales", "inverse problems (edit restore, inpaint, outpaint)")
"""What a distilled model refuses, because its x_0 is no posterior mean."""
_REFERENCE = 10_000  # training images of the distances


@dataclass(frozen=True)
class DistilledResult:
    """Frechet distances to training images, lower is better.

    Attributes:
        distances: by a description of model and sampling.
        features: name of the feature space.
    """

    distances: dict[str, Estimate]
    features: str

    def lines(self) -> list[str]:
        """A line for each distance, and what is lost."""
        width = max(map(len, self.distances))
        return [
            f"Frechet distance to training images, features {self.features}, i.i.d. samples:",
            *(f"  {name:{width}}  {value} (n = {value.n:,})" for name, value in self.distances.items()),
            f"left to the base: {', '.join(LOST)}",
        ]

    def json(self) -> dict[str, Any]:
        """All of it."""
        distances = {name: value.json() for name, value in self.distances.items()}
        return {"frechet": distances, "features": self.features, "left_to_the_base": list(LOST)}


def compare_with_base(
    run: Path, data: Data, compute: ComputeConfig, count: int, log: Callable[[str], None] = lambda line: None
) -> DistilledResult:
    """Sample a distilled model and its base, and measure the distances to training images.

    The base is sampled by its own settings, and in as many evaluations as the distilled model.

    Args:
        run: directory of the distilled model.
        data: of its training.
        compute: device and precision.
        count: samples of each model.
        log: receives messages.

    Raises:
        UserError: a model cannot be read, or the features are not available.
    """
    distilled = checkpoint.load_model(run).model
    base = checkpoint.load_model(RunDir(run).base_file).model
    unguided = {"steps": distilled.recipe.sample.steps, "grid": None, "guidance": 1.0}
    few = base.recipe.sample.model_copy(update=unguided)
    extractor = select_features(None, data, compute=compute, log=log)
    real = gather_stats(RealImages("training images", data.train, min(_REFERENCE, len(data.train))), extractor)
    found: dict[str, Estimate] = {}
    for name, model, config in (
        ("base", base, base.recipe.sample),
        ("base", base, few),
        ("distilled", distilled, distilled.recipe.sample),
    ):
        try:
            evaluations = model.network_evaluations(config)
        except UserError:
            continue  # the base's sampler needs more steps
        found[f"{name}, {config.sampler.kind}, {evaluations} evaluations"] = _distance(
            model, config, compute, count, extractor, real
        )
    return DistilledResult(found, extractor.name)


def _distance(
    model: Model,
    config: SamplingConfig,
    compute: ComputeConfig,
    count: int,
    extractor: FeatureExtractor,
    real: FeatureStats,
) -> Estimate:
    compute.to_device(model.denoiser)
    stats = gather_stats(ModelSource("samples", model, config, compute, count), extractor)
    metric: Metric = registry.build("metric", "frechet")
    estimate = metric.estimate(SampleComparison(stats, real))
    assert estimate is not None
    return estimate
