"""The doctor finds each injected problem, and none in healthy data and runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import config as recipes
from fromnoise.config import SamplingConfig
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.schedules import linear
from fromnoise.diffusion.targets import EDM, X0, Eps, V
from fromnoise.diffusion.weightings import ConstantWeighting, MinSNR
from fromnoise.evaluation.doctor import examine_data, sampling_config
from fromnoise.evaluation.result_tables import source_reports
from fromnoise.evaluation.run_checks import check_loss, check_reports, principal_variances, weighted_linear_loss
from fromnoise.evaluation.sample_checks import colour_remedy
from fromnoise.model import build


def keys(found) -> list[str]:
    """Keys of findings."""
    return [f.key for f in found]


def quiet(line: str) -> None:
    """Discards log lines."""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Six hundred different images of coloured discs, uint8 (N, 16, 16, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    out = np.empty((600, 16, 16, 3))
    for image in out:
        image[:] = rng.uniform(0, 255, 3)
        for _ in range(4):
            centre, radius = rng.uniform(0, 16, 2), rng.uniform(1, 4)
            inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            image[inside] = rng.uniform(0, 255, 3)
    return (out + rng.normal(0, 4, out.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def examine(tmp_path):
    """``examine(array, labels=..., test=...)`` as a .npz -> keys of the findings."""

    def examiner(images: np.ndarray, **more: np.ndarray) -> list[str]:
        np.savez(tmp_path / "x.npz", **({"x_train": images} | more if "x_test" in more else {"images": images} | more))
        return keys(examine_data(str(tmp_path / "x.npz"), None, quiet))

    return examiner


# ---- data


def test_healthy_data(examine, images):
    """No findings, also with labels or with a test split."""
    assert examine(images) == []
    assert examine(images, labels=np.arange(600) % 3) == []
    assert examine(images[:520], x_test=images[520:]) == []
    assert keys(examine_data("digits", None, quiet)) == []


def test_value_range(examine, images):
    """0 to 1 as uint8, and 0 to 31."""
    assert "range" in examine((images > 120).astype(np.uint8))
    assert examine(images // 8) == ["range"]


def test_few_images(examine, images):
    """DD#17: 140 images."""
    assert examine(images[:140]) == ["few"]


def test_duplicates(examine, images):
    """One in ten occurs twice, slightly brighter or unchanged."""
    brighter = (images[:60].astype(int) + 1).clip(0, 255).astype(np.uint8)
    assert examine(np.concatenate([images, brighter])) == ["duplicates"]
    assert examine(np.concatenate([images, images[:60]])) == ["duplicates"]


def test_few_exact_duplicates(examine, images):
    """Three copies of one image among 600 others."""
    assert examine(np.concatenate([images, images[:1], images[:1], images[:1]])) == ["duplicates"]


@pytest.mark.slow
def test_duplicates_of_the_emoji():
    """Review D6: 13 of the training images are equal to others."""
    source = Path(os.environ.get("FROMNOISE_DATA", "")) / "emoji_64.zip"
    if not source.is_file():
        pytest.skip("there are no emoji here")
    (finding,) = examine_data(str(source), None, quiet)
    assert finding.key == "duplicates" and "13 of 3,404" in finding.problem


@pytest.mark.parametrize("count", [1, 2, 3])
def test_hardly_any_images(examine, images, count):
    """A single image has no neighbours."""
    assert examine(images[:count]) == ["few"]


def test_held_out_images_in_the_training_images(examine, images):
    """Half of the test split."""
    assert examine(images[:540], x_test=images[500:580]) == ["leak"]


def test_blank_images(examine, images):
    """One in twenty."""
    with_blank = images.copy()
    with_blank[::20] = np.arange(30, dtype=np.uint8)[:, None, None, None] * 8
    assert "blank" in examine(with_blank)


def test_a_rare_class(examine, images):
    """Five images of the third class."""
    labels = np.arange(600) % 2
    labels[:5] = 2
    assert examine(images, labels=labels) == ["classes"]


def test_sizes_and_broken_files(tmp_path, images):
    """A folder of equal images, and one with panoramas, thumbnails and a truncated file."""
    for name, sizes in (("fine", {}), ("odd", {0: (64, 16), 4: (6, 6)})):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(images[:540]):
            image = Image.fromarray(picture)
            (image.resize(sizes[i % 8]) if i % 8 in sizes else image).save(tmp_path / name / f"{i}.png")
    (tmp_path / "odd" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n half a picture")
    assert keys(examine_data(str(tmp_path / "fine"), 16, quiet)) == []
    assert sorted(keys(examine_data(str(tmp_path / "odd"), 16, quiet))) == ["sizes", "sizes", "unreadable"]


# ---- reports


def reports(losses, averaged=None, dropped=0) -> list[dict]:
    """Lines of reports.jsonl."""
    averaged = averaged or losses
    return [
        {"step": 100 * (i + 1), "dropped_steps": dropped, "held_out_loss_raw": raw, "held_out_loss": mean}
        for i, (raw, mean) in enumerate(zip(losses, averaged, strict=True))
    ]


FALLING = [0.5 * 0.9**i + 0.03 for i in range(12)]


def test_healthy_reports():
    """A loss that falls, with noise; and a run too short for a check."""
    assert keys(check_reports(reports(FALLING))) == []
    assert keys(check_reports(reports([f * (1 + 0.03 * (-1) ** i) for i, f in enumerate(FALLING)]))) == []
    assert keys(check_reports(reports([0.3, 0.3]))) == [] and keys(check_reports([])) == []


def test_dropped_steps():
    """DD#175: reported."""
    assert keys(check_reports(reports(FALLING, dropped=3))) == ["dropped"]


def test_lagging_ema():
    """ID#59: the raw weights are better."""
    assert keys(check_reports(reports(FALLING, [2 * f for f in FALLING]))) == ["ema"]


def test_a_plateau():
    """No improvement in the second half."""
    flat = FALLING[:5] + [FALLING[4] * 1.01] * 7
    assert keys(check_reports(reports(flat))) == ["plateau"]


def test_overfitting():
    """The held-out loss rises again."""
    turning = FALLING[:6] + [FALLING[5] * 1.06**i for i in range(6)]
    assert keys(check_reports(reports(turning))) == ["overfitting"]


# ---- loss of the linear denoiser


def test_linear_denoiser_loss_equals_monte_carlo():
    """For a Gaussian the best denoiser is linear: its sampled error equals the closed form for each target."""
    table, generator = linear(1000), torch.Generator().manual_seed(0)
    deviation = torch.tensor([0.8, 0.3, 0.05, 0.5], dtype=torch.float64)
    n = 200_000
    x0 = torch.randn(n, 4, generator=generator, dtype=torch.float64) * deviation
    eps = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    level = table.at(t, like=x0)
    x = level.noisy(x0, eps)
    # least squares of x0 given x, coordinate by coordinate, at this level
    gain = level.alpha * deviation**2 / (level.alpha**2 * deviation**2 + level.sigma**2)
    grid = table.at((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    for target in (Eps(), X0(), V(), EDM(0.5)):
        truth = target.target_from(x0, eps, level)
        output = target.target_from(gain * x, level.eps(x, gain * x), level)
        for weighting in (ConstantWeighting(), MinSNR(5.0)):
            sampled = float((weighting.weight(level, target) * (truth - output).square()).mean())
            found = weighted_linear_loss(deviation**2, grid, target, weighting)
            assert found == pytest.approx(sampled, rel=0.03), (target, weighting)


def test_principal_variances():
    """Of correlated pixels; of single pixels if there are many, which never lowers the linear loss."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (500, 1, 1, 1), generator=generator).to(torch.uint8).repeat(1, 1, 2, 2)
    found = principal_variances(one)
    assert float(found.max()) == pytest.approx(4 * float((one.double() / 127.5).flatten(1)[:, 0].var()), rel=1e-5)
    assert float(found.sort().values[:3].sum()) < 1e-9
    assert principal_variances(one.repeat(1, 1, 20, 20)).numel() == 1600


def test_loss_above_the_linear_denoiser(digits):
    """A network of zeros has loss 1 for eps; a trained one is far below the linear denoiser."""
    model = build(
        recipes.load("digits", {"loss.weighting": "constant", "diffusion.target": "eps"}), DatasetInfo((1, 8, 8))
    )
    assert keys(check_loss(reports([1.0]), model, digits)) == ["loss"]
    assert keys(check_loss(reports([0.05]), model, digits)) == []
    for changes in ({"loss.weighting": "min-snr"}, {"loss.time_sampler": "lognormal", "diffusion.target": "edm"}):
        other = build(recipes.load("digits", changes), DatasetInfo((1, 8, 8)))
        assert keys(check_loss(reports([9.0]), other, digits)) == ["loss"]
        assert keys(check_loss(reports([0.01]), other, digits)) == []
    other = build(recipes.load("digits", {"loss.distance": "mae"}), DatasetInfo((1, 8, 8)))
    assert keys(check_loss(reports([9.0]), other, digits)) == []  # no closed form


def test_loss_outside_of_the_range_of_the_recipe(digits):
    """At the end of the budget, for the recipe as it is; each range names its source."""
    stated = [recipes.load(name) for name in recipes.names()]
    assert all(r.loss_source and r.train.minutes is None for r in stated if r.expected_loss is not None)
    low, high = recipes.load("digits").expected_loss

    def found(loss, steps=600, **changes):
        model = build(recipes.load("digits", changes), DatasetInfo((1, 8, 8)))
        return keys(check_loss([{**reports([loss])[0], "step": steps}], model, digits))

    assert found((low + high) / 2) == [] and found(high * 1.01) == found(low * 0.99) == ["loss_range"]
    assert found(high * 1.01, steps=599) == [] and found(high * 1.01, **{"train.lr": 1e-3}) == []
    assert found(high * 1.01, **{"train.seed": 3, "sample.steps": 5}) == ["loss_range"]


# ---- samples


@pytest.mark.parametrize(
    ("sampling", "named", "not_named"),
    [
        ({"clip": True}, "--threshold", ("--clip", "--guidance")),
        ({"clip": True, "guidance": 3.0}, "--guidance", ("--clip",)),
        ({"clip": False}, "--clip", ("--guidance",)),
        ({"clip": False, "threshold": 0.995}, "train longer", ("--clip", "--threshold", "--guidance")),
    ],
)
def test_remedies_for_clipped_samples_are_not_in_use_already(sampling, named, not_named):
    """Review D6: a run that clips is not told to clip."""
    remedy = colour_remedy("per", True, SamplingConfig(**sampling))
    assert named in remedy and not [words for words in not_named if words in remedy.split()]


def test_clipped_samples(evaluate, halves):
    """Contrast raised until every value is black or white."""
    clipped = ((halves[0].int() - 128) * 4 + 128).clamp(0, 255).to(torch.uint8)
    assert "clipped" in keys(source_reports(evaluate({"clipped": clipped}))[0].findings)


@pytest.mark.parametrize(
    ("own", "sampler", "steps"),
    [
        ({"sampler": "dpmpp-2m", "steps": 20, "grid": "logsnr"}, "dpmpp-2m", 20),  # as in the recipe
        ({"sampler": "heun", "steps": 80}, "ddim", 50),
        ({"sampler": "ancestral", "steps": 1000}, "ddim", 50),
    ],
)
def test_samples_of_a_run_use_its_sampler(own, sampler, steps):
    """Unless it takes more than 50 steps."""
    changes = {f"sample.{key}": value for key, value in own.items()} | {
        "sample.clip": False,
        "diffusion.schedule.steps": 1000,
    }
    config = sampling_config(build(recipes.load("digits", changes), DatasetInfo((1, 8, 8))))
    assert (config.sampler.kind, config.steps, config.clip) == (sampler, steps, False)
    assert "grid" not in own or config.grid.kind == own["grid"]
