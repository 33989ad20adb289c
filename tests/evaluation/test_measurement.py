"""Evaluations of samples with known faults, and of real images, which have none."""

from __future__ import annotations

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.checkpoint import save_model
from fromnoise.data import MemoryImages, to_float
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.evaluation.colour_stats import colour_shifts, colour_statistic_names, colour_statistics
from fromnoise.evaluation.feature_stats import gather_stats
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.measurement import MIRRORED, _real_sample, measure
from fromnoise.evaluation.metrics.class_balance import group_shares
from fromnoise.evaluation.metrics.frechet import frechet_distance
from fromnoise.evaluation.metrics.kid import kernel_distance
from fromnoise.evaluation.metrics.nearest import NearestNeighbours
from fromnoise.evaluation.metrics.prdc import prdc
from fromnoise.evaluation.model_source import ModelSource
from fromnoise.evaluation.resolve import SampleRequest, image_sources, open_runs
from fromnoise.evaluation.result_tables import metrics_table, source_reports
from fromnoise.evaluation.sources import RealImages
from fromnoise.evaluation.statistics import Moments
from fromnoise.model import build
from fromnoise.utils.device import select_device


def finding_keys(measurement) -> dict[str, set[str]]:
    """Keys of the findings by the name of the source."""
    return {report.name: {f.key for f in report.findings} for report in source_reports(measurement)}


@pytest.fixture(scope="module")
def train(digits):
    """All training digits."""
    return digits.train.get(torch.arange(len(digits.train)))


# ---- copies


def test_copies_are_found_and_held_out_images_are_not_flagged(evaluate, train, halves):
    """Training images unchanged, with a little noise, or as a fifth of the samples."""
    fresh = halves[0]
    n = len(fresh)
    noise = torch.randint(-8, 9, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    some = fresh.clone()
    some[: n // 5] = train[: n // 5]
    samples = {
        "copies": train[:n],
        "noisy copies": (train[:n].int() + noise).clamp(0, 255).to(torch.uint8),
        "some copies": some,
        "real": fresh,
    }
    keys = finding_keys(evaluate(samples))
    assert all("copies" in keys[name] for name in ("copies", "noisy copies", "some copies"))
    assert keys["real"] == set()


def test_copies_are_found_by_pixels(evaluate, train, halves, digits):
    """Without a classifier; clusters replace classes."""
    measured = evaluate({"copies": train[: len(halves[0])], "real": halves[0]}, PixelFeatures(digits.shape))
    assert measured.group_kind == "cluster"
    keys = finding_keys(measured)
    assert "copies" in keys["copies"] and keys["real"] == set()


def test_mirrored_copies_are_found(evaluate, train, halves):
    """Mirrored training images as all or a fifth of the samples; held-out images are not flagged, mirrored or not."""
    fresh = halves[0]
    some = fresh.clone()
    some[: len(fresh) // 5] = train[: len(fresh) // 5].flip(-1)
    samples = {"mirrored": train[: len(fresh)].flip(-1), "some": some, "real": fresh, "mirrored real": fresh.flip(-1)}
    measured = evaluate(samples)
    keys = finding_keys(measured)
    assert "mirrored_copies" in keys["mirrored"] and "mirrored_copies" in keys["some"]
    assert "copies" not in keys["mirrored"] | keys["some"]
    assert not {"mirrored_copies", "copies"} & (keys["real"] | keys["mirrored real"])
    assert measured.evaluations[0].nearest[MIRRORED].copy_rate.value == 1


def test_nearest_neighbours_in_blocks_equal_brute_force():
    """Distances and indices, in any blocks; within a set a vector is not its own neighbour."""
    x, y = torch.rand(40, 6, dtype=torch.float64), torch.rand(90, 6, dtype=torch.float64)
    nearest = NearestNeighbours(x, 4)
    for first in (0, 2, 50):
        nearest.add_reference(y[first : {0: 2, 2: 50, 50: 90}[first]], first)
    distances = (x[:, None] - y[None]).square().sum(2).sqrt()
    expected = distances.sort(1)
    torch.testing.assert_close(nearest.distances, expected.values[:, :4], rtol=1e-9, atol=1e-12)
    assert torch.equal(nearest.indices, expected.indices[:, :4])
    own = NearestNeighbours(y, 3).search_within()
    distances = (y[:, None] - y[None]).square().sum(2).sqrt() + torch.eye(90) * 1e9
    torch.testing.assert_close(own.distances, distances.sort(1).values[:, :3], rtol=1e-9, atol=1e-12)


def test_copies_of_a_repeated_training_image():
    """A copy of an image that occurs a hundred times is a copy, without a division by zero."""
    repeated = torch.ones(100, 4, dtype=torch.float64)
    nearest = NearestNeighbours(torch.ones(3, 4, dtype=torch.float64), 51)
    nearest.add_reference(repeated, 0)
    assert nearest.copy_rate.value == 1
    single = NearestNeighbours(torch.ones(3, 4, dtype=torch.float64), 51)
    single.add_reference(torch.zeros(1, 4, dtype=torch.float64), 0)  # a single training image gives no scale
    assert single.copy_rate.value == 0


def test_repeated_samples_are_near_duplicates(evaluate, halves):
    """Twenty images, fifteen times each."""
    few = halves[0][:20].repeat(15, 1, 1, 1)
    assert "near_duplicates" in finding_keys(evaluate({"few": few}))["few"]


# ---- class balance and colour


def test_missing_and_frequent_classes_are_named(evaluate, digits, train):
    """No 7, and three times as many 1."""
    labels = digits.train.labels
    ones = train[labels == 1]
    rest = train[(labels != 7) & (labels != 1)][:500]
    (evaluation,) = evaluate({"dropping": torch.cat([rest, ones, ones])}).evaluations
    status = {s.name: s.status for s in evaluation.shares}
    assert status["7"] in ("missing", "rare") and status["1"] == "frequent"
    assert [v for k, v in status.items() if k not in "17"] == [""] * 8


@pytest.mark.parametrize(
    ("change", "name"),
    [(lambda x: x // 2 + 60, "contrast"), (lambda x: x + 40, "mean"), (lambda x: (x > 100) * 255, "per cent")],
)
def test_low_contrast_bright_and_clipped_samples(evaluate, halves, change, name):
    """Each change is found by its own statistic."""
    changed = change(halves[0].int()).clamp(0, 255).to(torch.uint8)
    (evaluation,) = evaluate({"changed": changed}).evaluations
    assert any(s.name.startswith(name) and s.direction for s in evaluation.colour_shifts)
    assert "colour" in finding_keys(evaluate({"changed": changed}))["changed"]


def test_an_invisible_background_is_not_reported(evaluate, halves):
    """Faint noise in black is no finding; the same noise on grey is."""
    noise = torch.randint(0, 13, halves[0].shape, generator=torch.Generator().manual_seed(0))
    dark = torch.maximum(halves[0].int(), noise).to(torch.uint8)
    grey = torch.maximum(halves[0].int(), 24 + noise).to(torch.uint8)
    keys = finding_keys(evaluate({"dark": dark, "grey": grey}))
    assert keys["dark"] == set() and "colour" in keys["grey"]


def test_desaturated_samples():
    """Found by colourfulness, whatever mean and contrast show."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 6, 6), generator=generator)
    grey = real.double().mean(1, keepdim=True)
    pale = (0.5 * real + 0.5 * grey).round().to(torch.uint8)
    moments = [Moments.of(colour_statistics(images)) for images in (pale, real.to(torch.uint8))]
    directions = {s.name: s.direction for s in colour_shifts(*moments, channels=3)}
    assert directions["colourfulness"] == "low"


def test_colour_statistics_of_a_two_coloured_image():
    """By hand."""
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[0, 0, 0] = 255  # the upper half is red
    stats = dict(zip(colour_statistic_names(3), colour_statistics(image)[0].tolist(), strict=True))
    assert stats["mean of red"] == 127.5 and stats["contrast of red"] == 127.5 and stats["mean of blue"] == 0
    assert stats["colourfulness"] == 127.5 and stats["per cent black or white"] == 100


def test_equal_class_shares_are_not_reported():
    """In 200 repetitions with 10 classes there is at most one false report."""
    generator = torch.Generator().manual_seed(0)
    names = tuple("abcdefghij")
    false = 0
    for _ in range(200):
        samples, real = (
            torch.randint(0, 10, (500,), generator=generator),
            torch.randint(0, 10, (900,), generator=generator),
        )
        false += sum(bool(s.status) for s in group_shares(samples, real, names))
    assert false <= 1


# ---- the whole measurement


def test_metrics_equal_those_of_all_features_at_once(evaluate, extractor, train, halves):
    """Batches, parts and blocks do not matter."""
    measured = evaluate({"real": halves[0]})
    (evaluation,), (held_out,) = measured.evaluations, measured.real_vs_real
    held_out_images = halves[1].get(torch.arange(len(halves[1])))
    real, samples, held = (Moments.of(extractor.features(x)) for x in (train, halves[0], held_out_images))
    assert evaluation.metrics["frechet"].value == pytest.approx(frechet_distance(samples, real), rel=1e-5)
    assert held_out.metrics["frechet"].value == pytest.approx(frechet_distance(held, real), rel=1e-5)
    vectors, real_vectors = extractor.features(halves[0]), extractor.features(train)
    kernel = kernel_distance(vectors, real_vectors).value
    assert evaluation.metrics["kernel"].value == pytest.approx(kernel, rel=1e-4, abs=1e-6)
    precision = prdc(real_vectors, vectors).precision.value
    assert evaluation.metrics["precision"].value == pytest.approx(precision, abs=0.01)


@pytest.mark.parametrize("size", [1, 7, 512])
def test_statistics_do_not_depend_on_the_batch_size(halves, size):
    """The same moments in the same parts."""
    images, pixels = MemoryImages(halves[0]), PixelFeatures((1, 8, 8))
    whole = gather_stats(RealImages("a", images, batch=10_000), pixels)
    batched = gather_stats(RealImages("a", images, batch=size), pixels)
    assert [p.n for p in whole.moment_parts] == [p.n for p in batched.moment_parts]
    assert len(batched.moment_parts) == 20
    for a, b in zip(whole.moment_parts, batched.moment_parts, strict=True):
        torch.testing.assert_close(a.scatter, b.scatter, rtol=1e-9, atol=1e-9)
    assert torch.equal(whole.images, batched.images) and torch.equal(whole.features, batched.features)


# ---- pseudo-labels: samples and real images are sampled alike (review B2)


def test_b2_a_fixed_number_of_real_images_of_each_group():
    """The first of each group in the order of the seed; an error if there are too few.

    In version 0.1 real images were always an i.i.d. sample.
    """
    images = MemoryImages(torch.arange(30, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2))
    groups = torch.arange(30) % 3
    source = RealImages("real", images, groups=groups, sizes=torch.tensor([5, 0, 2]))
    values = torch.cat(list(source.batches()))[:, 0, 0, 0].long()
    assert source.count == 7 and source.strata is not None
    assert (values % 3).bincount(minlength=3).tolist() == [5, 0, 2] and torch.equal(values % 3, source.strata)
    with pytest.raises(ValueError, match="fewer"):
        RealImages("real", images, groups=groups, sizes=torch.tensor([11, 0, 0]))


def test_b2_models_with_pseudo_labels_are_evaluated_both_ways(digits, tmp_path):
    """Two sources, i.i.d. and stratified; the real images of the second have its numbers of each cluster.

    Version 0.1 had stratified samples beside i.i.d. real images: a perfect model of 64 clusters scored 0.47, not 1.0.
    """
    changes = {"data.labels": False, "data.pseudo_labels": 3, "sample.steps": 2, "network.width": 8}
    recipe = recipes.load("digits", changes | {"network.groups": 4})
    model = build(recipe, DatasetInfo((1, 8, 8), fingerprint=digits.fingerprint))
    labels = model.denoiser.pseudo_labels
    points = labels.downsample(to_float(digits.train.get(torch.arange(300))))
    labels.fit(points[:3], points)
    path = tmp_path / "model.safetensors"
    save_model(path, model, model.denoiser.state_dict(), {"step": 0})
    request = SampleRequest(40, 0, None, 40, select_device("cpu", "fp32"))
    sources = image_sources([str(path)], open_runs([str(path)], {}), {}, digits, request, False)
    assert [s.name.partition(", ")[2] for s in sources] == ["i.i.d. pseudo-labels", "stratified pseudo-labels"]
    reference = RealImages("training images", digits.train)
    measured = measure(sources, reference, digits.held_out, PixelFeatures(digits.shape))
    iid, stratified = (evaluation.stats for evaluation in measured.real_vs_real)
    assert iid.strata is None and stratified.strata is not None and sources[1].strata is not None
    assert torch.equal(stratified.strata.bincount(), sources[1].strata.bincount())
    assert torch.equal(labels.assign(to_float(stratified.images)), stratified.strata)
    reports = source_reports(measured)
    assert "stratified held-out real images" in metrics_table(reports).plain()
    row = reports[0].row("frechet")
    assert row is not None and row.json()["error_over"] == "samples"


def test_b2_samples_of_a_model_with_classes_are_stratified_by_class(digits):
    """And so are the real images beside them, in the same numbers. In 0.1 the real images were an i.i.d. sample."""
    info = DatasetInfo((1, 8, 8), class_names=digits.class_names, fingerprint=digits.fingerprint)
    model = build(recipes.load("digits", {"sample.steps": 2, "network.width": 8, "network.groups": 4}), info)
    sampled = ModelSource("model", model, model.recipe.sample, select_device("cpu", "fp32"), 43)
    reference = RealImages("training images", digits.train)
    measured = measure([sampled], reference, digits.held_out, PixelFeatures(digits.shape))
    strata = measured.real_vs_real[0].stats.strata
    assert sampled.strata is not None and strata is not None
    assert strata.bincount().tolist() == sampled.strata.bincount().tolist() == [5, 5, 5, 4, 4, 4, 4, 4, 4, 4]
    many = ModelSource("model", model, model.recipe.sample, select_device("cpu", "fp32"), len(digits.held_out))
    assert _real_sample(many, digits.held_out, many.count).strata is None  # not enough of each class
