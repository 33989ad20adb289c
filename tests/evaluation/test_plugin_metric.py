"""A metric that is registered outside the package appears in tables, JSON, plots, findings and time estimates."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from fromnoise import registry
from fromnoise.data import MemoryImages, load
from fromnoise.evaluation import page
from fromnoise.evaluation.estimate import Estimate
from fromnoise.evaluation.findings import Finding
from fromnoise.evaluation.metrics import all_metrics
from fromnoise.evaluation.metrics.metric import Metric, SampleComparison
from fromnoise.evaluation.result_tables import metrics_table, source_reports
from fromnoise.evaluation.sources import RealImages


@pytest.fixture
def mean_distance(monkeypatch):
    """A registered metric, which is removed after the test."""
    monkeypatch.setitem(registry._COMPONENTS, "metric", dict(registry._COMPONENTS["metric"]))

    @registry.register("metric", "mean-distance")
    class MeanDistance(Metric):
        """Distance between mean features."""

        key = "mean_distance"
        title = "mean distance"
        better = "lower"

        def estimate(self, comparison: SampleComparison) -> Estimate:
            samples, real = comparison.samples.moments, comparison.reference.moments
            return Estimate(float((samples.mean - real.mean).norm()), math.nan, samples.n)

        def check(self, samples: Estimate, held_out: Estimate) -> Finding | None:
            if samples.value > 3 * held_out.value:
                return Finding("mean_distance", "the means differ", "look at the samples")
            return None

    return MeanDistance


def test_built_in_metrics():
    """Distances first; without the plug-in of the other tests."""
    keys = [metric.key for metric in all_metrics()]
    assert keys[:2] == ["frechet", "kernel"] and len(keys) == len(set(keys))
    assert set(keys[2:]) == {"inception_score", "precision", "recall", "density", "coverage"}


def test_plugin_metric_in_a_report(mean_distance, evaluate, extractor, digits, halves):
    """Table, JSON, document and finding."""
    real = halves[0][:300]
    measured = evaluate({"real": real, "dark": real // 3})
    reports = source_reports(measured)
    head = metrics_table(reports).head
    assert "mean distance" in head
    environment = page.Environment("fromnoise evaluate", "digits", ())
    plain = page.as_json(measured, reports, environment)
    train, dark = (extractor.features(x) for x in (digits.train.get(torch.arange(len(digits.train))), real // 3))
    value = plain["evaluations"][1]["mean_distance"]
    assert value["value"] == pytest.approx(float((dark.mean(0) - train.mean(0)).norm()), rel=1e-9)
    assert value["error"] is None and value["real_vs_real"] < value["value"]
    assert "mean_distance" in [f["key"] for f in plain["evaluations"][1]["findings"]]
    assert "mean_distance" not in [f["key"] for f in plain["evaluations"][0]["findings"]]
    assert page.document(measured, reports, RealImages("training images", digits.train), environment)


def test_plugin_metric_on_the_command_line(mean_distance, tmp_path, monkeypatch, capsys):
    """``fromnoise evaluate`` prints it and writes it as JSON."""
    from fromnoise.cli import main

    monkeypatch.chdir(tmp_path)
    data = load("digits", log=lambda line: None)
    np.savez("x.npz", images=data.held_out.get(torch.arange(60)).numpy())
    words = ["evaluate", "x.npz", "--against", "digits", "-n", "60", "--features", "pixels", "--device", "cpu"]
    assert main([*words, "--json", "x.json", "--out", "report"]) == 0
    (evaluation,) = json.loads((tmp_path / "x.json").read_text())["evaluations"]
    assert evaluation["mean_distance"].keys() >= {"value", "error", "real_vs_real", "n", "features"}
    assert "mean distance" in capsys.readouterr().out
    assert "mean distance" in (tmp_path / "report" / "report.html").read_text()


def test_shared_results_are_computed_once(evaluate, halves, extractor):
    """Metrics that share a result compute it once per comparison."""
    from fromnoise.evaluation.feature_stats import gather_stats

    stats = gather_stats(RealImages("a", MemoryImages(halves[0])), extractor)
    calls = []
    comparison = SampleComparison(stats, stats)

    def compute(c: SampleComparison) -> int:
        calls.append(c)
        return 7

    assert [comparison.shared(compute) for _ in range(3)] == [7, 7, 7] and len(calls) == 1
    comparison.clear_shared()
    assert comparison.shared(compute) == 7 and len(calls) == 2
