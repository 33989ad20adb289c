"""The doctor finds each planted fault, and nothing in what is healthy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.schedules import linear
from fromnoise.diffusion.targets import X0, Eps, V
from fromnoise.evaluation import doctor, run_checks
from fromnoise.model import build


def keys(found) -> list[str]:
    """Of findings."""
    return [f.key for f in found]


def quiet(line: str) -> None:
    """Takes what is said."""


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Six hundred pictures that differ: blobs of one colour on another, uint8 (N, 16, 16, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    out = np.empty((600, 16, 16, 3))
    for image in out:
        image[:] = rng.uniform(0, 255, 3)
        for _ in range(4):
            place, size = rng.uniform(0, 16, 2), rng.uniform(1, 4)
            inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 < size**2
            image[inside] = rng.uniform(0, 255, 3)
    return (out + rng.normal(0, 4, out.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def examine(tmp_path):
    """``examine(array, labels=..., test=...)`` as a .npz -> keys of the findings."""

    def examiner(images: np.ndarray, **more: np.ndarray) -> list[str]:
        np.savez(tmp_path / "x.npz", **({"x_train": images} | more if "x_test" in more else {"images": images} | more))
        return keys(doctor.of_spec(str(tmp_path / "x.npz"), None, quiet))

    return examiner


# ---- data


def test_healthy_data(examine, pictures):
    """Silence, with labels and a test split of its own too."""
    assert examine(pictures) == []
    assert examine(pictures, labels=np.arange(600) % 3) == []
    assert examine(pictures[:520], x_test=pictures[520:]) == []
    assert keys(doctor.of_spec("digits", None, quiet)) == []


def test_a_wrong_range(examine, pictures):
    """0 to 1 as bytes, and 0 to 31."""
    assert "range" in examine((pictures > 120).astype(np.uint8))
    assert examine(pictures // 8) == ["range"]


def test_few_images(examine, pictures):
    """DD#17: 140 of them."""
    assert examine(pictures[:140]) == ["few"]


def test_duplicates(examine, pictures):
    """One in ten is there twice, once a little brighter; exact doubles as well."""
    brighter = (pictures[:60].astype(int) + 1).clip(0, 255).astype(np.uint8)
    assert examine(np.concatenate([pictures, brighter])) == ["duplicates"]
    assert examine(np.concatenate([pictures, pictures[:60]])) == ["duplicates"]


def test_a_leak(examine, pictures):
    """Half of the test split is trained on."""
    assert examine(pictures[:540], x_test=pictures[500:580]) == ["leak"]


def test_blank_images(examine, pictures):
    """A twentieth of them."""
    with_blank = pictures.copy()
    with_blank[::20] = np.arange(30, dtype=np.uint8)[:, None, None, None] * 8
    assert "blank" in examine(with_blank)


def test_a_poor_class(examine, pictures):
    """Five images of the third."""
    labels = np.arange(600) % 2
    labels[:5] = 2
    assert examine(pictures, labels=labels) == ["classes"]


def test_odd_sizes_and_broken_files(tmp_path, pictures):
    """A folder as it should be; and one with panoramas, thumbnails and half a file."""
    for name, sizes in (("fine", {}), ("odd", {0: (64, 16), 4: (6, 6)})):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(pictures[:540]):
            image = Image.fromarray(picture)
            (image.resize(sizes[i % 8]) if i % 8 in sizes else image).save(tmp_path / name / f"{i}.png")
    (tmp_path / "odd" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n half a picture")
    assert keys(doctor.of_spec(str(tmp_path / "fine"), 16, quiet)) == []
    assert sorted(keys(doctor.of_spec(str(tmp_path / "odd"), 16, quiet))) == ["sizes", "sizes", "unreadable"]


# ---- reports


def reports(losses, averaged=None, dropped=0) -> list[dict]:
    """Lines as a run writes them."""
    averaged = averaged or losses
    return [
        {"step": 100 * (i + 1), "dropped": dropped, "held_out_raw": raw, "held_out": mean}
        for i, (raw, mean) in enumerate(zip(losses, averaged, strict=True))
    ]


FALLING = [0.5 * 0.9**i + 0.03 for i in range(12)]


def test_healthy_reports():
    """A loss that falls, noisily at the end; and a run too short to judge."""
    assert keys(run_checks.of_reports(reports(FALLING))) == []
    assert keys(run_checks.of_reports(reports([f * (1 + 0.03 * (-1) ** i) for i, f in enumerate(FALLING)]))) == []
    assert keys(run_checks.of_reports(reports([0.3, 0.3]))) == [] and keys(run_checks.of_reports([])) == []


def test_dropped_steps():
    """DD#175: told, not hidden."""
    assert keys(run_checks.of_reports(reports(FALLING, dropped=3))) == ["dropped"]


def test_averages_that_lag():
    """ID#59: raw weights are better."""
    assert keys(run_checks.of_reports(reports(FALLING, [2 * f for f in FALLING]))) == ["ema"]


def test_a_plateau():
    """Nothing gained in the second half."""
    flat = FALLING[:5] + [FALLING[4] * 1.01] * 7
    assert keys(run_checks.of_reports(reports(flat))) == ["plateau"]


def test_overfitting():
    """The held-out loss turns."""
    turning = FALLING[:6] + [FALLING[5] * 1.06**i for i in range(6)]
    assert keys(run_checks.of_reports(reports(turning))) == ["overfitting"]


# ---- the loss band


def test_the_linear_denoiser_s_loss_is_that_of_an_exact_one():
    """For a Gaussian the best denoiser is linear: its error, drawn, is the closed form's, for each target."""
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
    for name, target in (("eps", Eps()), ("x0", X0()), ("v", V())):
        truth = target.target_from(x0, eps, level)
        told = target.target_from(gain * x, level.eps(x, gain * x), level)
        drawn = float((truth - told).square().mean())
        assert run_checks.linear_losses[name](deviation**2, table) == pytest.approx(drawn, rel=0.02), name


def test_variances_are_the_principal_ones():
    """Of correlated pixels; and of many pixels one by one, whose linear loss is never below the full one."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (500, 1, 1, 1), generator=generator).to(torch.uint8).repeat(1, 1, 2, 2)
    found = run_checks.variances(one)
    assert float(found.max()) == pytest.approx(4 * float((one.double() / 127.5).flatten(1)[:, 0].var()), rel=1e-5)
    assert float(found.sort().values[:3].sum()) < 1e-9
    assert run_checks.variances(one.repeat(1, 1, 20, 20)).numel() == 1600


def test_a_loss_that_a_linear_denoiser_beats(digits):
    """1 is what a network of zeros has for eps; a trained one is far below the line."""
    model = build(
        recipes.load("digits", {"loss.weighting": "simple", "diffusion.target": "eps"}), DatasetInfo((1, 8, 8))
    )
    assert keys(run_checks.of_loss(reports([1.0]), model, digits)) == ["loss"]
    assert keys(run_checks.of_loss(reports([0.05]), model, digits)) == []
    other = build(recipes.load("digits", {"loss.weighting": "min-snr"}), DatasetInfo((1, 8, 8)))
    assert keys(run_checks.of_loss(reports([9.0]), other, digits)) == []  # not comparable, so nothing is said


# ---- samples


def test_clipped_samples(judge, halves):
    """Contrast raised until everything is black or white."""
    from fromnoise.evaluation import page

    harsh = ((halves[0].int() - 128) * 4 + 128).clamp(0, 255).to(torch.uint8)
    assert "clipped" in keys(page.verdicts(judge({"harsh": harsh}))[0].findings)


@pytest.mark.parametrize(
    ("own", "sampler", "steps"),
    [
        ({"sampler": "dpmpp-2m", "steps": 20, "grid": "logsnr"}, "dpmpp-2m", 20),  # as the run draws
        ({"sampler": "heun", "steps": 80}, "ddim", 50),
        ({"sampler": "ancestral", "steps": 1000}, "ddim", 50),
    ],
)
def test_a_run_is_examined_by_its_own_rule(own, sampler, steps):
    """A short rule of another kind would blame the run for what its own rule does well."""
    told = {f"sample.{key}": value for key, value in own.items()} | {"sample.clip": False, "diffusion.steps": 1000}
    config = doctor.drawing(build(recipes.load("digits", told), DatasetInfo((1, 8, 8))))
    assert (config.sampler, config.steps, config.clip) == (sampler, steps, False)
    assert config.grid == own.get("grid", config.grid)
