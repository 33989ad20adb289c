"""What is said of samplers whose faults are known, and of real images, which have none."""

from __future__ import annotations

import pytest
import torch

from fromnoise.data import MemoryImages
from fromnoise.evaluation import page
from fromnoise.evaluation.features.extractors import Pixels
from fromnoise.evaluation.measurement import MIRRORED, tally
from fromnoise.evaluation.metrics import class_balance, frechet, prdc
from fromnoise.evaluation.metrics.frechet import Moments
from fromnoise.evaluation.metrics.nearest import Nearest
from fromnoise.evaluation.sources import RealImages


def found(measurement) -> dict[str, set[str]]:
    """Keys of the findings by name of the subject."""
    return {v.name: {f.key for f in v.findings} for v in page.verdicts(measurement)}


@pytest.fixture(scope="module")
def train(digits):
    """All training digits."""
    return digits.train.get(torch.arange(len(digits.train)))


# ---- copies


def test_copies_are_flagged_and_held_out_images_are_not(judge, train, halves):
    """Training images returned, as they are, with a little noise, or for a fifth of the samples only."""
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
    told = found(judge(samples))
    assert all("copies" in told[name] for name in ("copies", "noisy copies", "some copies"))
    assert told["real"] == set()


def test_copies_are_seen_by_pixels_alone(judge, train, halves, digits):
    """Without a classifier too, and clusters take the place of classes."""
    measured = judge({"copies": train[: len(halves[0])], "real": halves[0]}, Pixels(digits.shape))
    assert measured.kind == "cluster"
    told = found(measured)
    assert "copies" in told["copies"] and told["real"] == set()


def test_mirrored_copies_are_told_as_such(judge, train, halves):
    """All training images turned left to right, or a fifth of the samples; not the held-out ones, turned or not."""
    fresh = halves[0]
    some = fresh.clone()
    some[: len(fresh) // 5] = train[: len(fresh) // 5].flip(-1)
    samples = {"mirrored": train[: len(fresh)].flip(-1), "some": some, "real": fresh, "turned": fresh.flip(-1)}
    measured = judge(samples)
    told = found(measured)
    assert "mirrored" in told["mirrored"] and "mirrored" in told["some"]
    assert "copies" not in told["mirrored"] | told["some"]
    assert not {"mirrored", "copies"} & (told["real"] | told["turned"])
    assert measured.judged[0].nearest[MIRRORED].copies.value == 1


def test_nearest_over_blocks_is_brute_force():
    """Distances and indices of all pairs at once, whatever the blocks; oneself left out."""
    x, y = torch.rand(40, 6, dtype=torch.float64), torch.rand(90, 6, dtype=torch.float64)
    nearest = Nearest(x, 4)
    for first in (0, 2, 50):
        nearest.update(y[first : {0: 2, 2: 50, 50: 90}[first]], first)
    apart = (x[:, None] - y[None]).square().sum(2).sqrt()
    expected = apart.sort(1)
    torch.testing.assert_close(nearest.distances, expected.values[:, :4], rtol=1e-9, atol=1e-12)
    assert torch.equal(nearest.indices, expected.indices[:, :4])
    own = Nearest(y, 3).among_themselves()
    apart = (y[:, None] - y[None]).square().sum(2).sqrt() + torch.eye(90) * 1e9
    torch.testing.assert_close(own.distances, apart.sort(1).values[:, :3], rtol=1e-9, atol=1e-12)


def test_copies_where_the_training_set_repeats_itself():
    """A copy of an image that is there a hundred times is a copy still, and nothing is divided by zero."""
    again = torch.ones(100, 4, dtype=torch.float64)
    nearest = Nearest(torch.ones(3, 4, dtype=torch.float64), 51)
    nearest.update(again, 0)
    assert nearest.copies.value == 1
    lone = Nearest(torch.ones(3, 4, dtype=torch.float64), 51)
    lone.update(torch.zeros(1, 4, dtype=torch.float64), 0)  # one training image: no surroundings to compare with
    assert lone.copies.value == 0


def test_a_collapsed_sampler_has_twins(judge, halves):
    """Twenty images again and again."""
    few = halves[0][:20].repeat(15, 1, 1, 1)
    assert "twins" in found(judge({"few": few}))["few"]


# ---- coverage


def test_dropped_and_favoured_classes_are_named(judge, digits, train):
    """No 7, and three times as many 1."""
    labels = digits.train.labels
    ones = train[labels == 1]
    rest = train[(labels != 7) & (labels != 1)][:500]
    (judged,) = judge({"dropping": torch.cat([rest, ones, ones])}).judged
    verdicts = {s.name: s.verdict for s in judged.shares}
    assert verdicts["7"] in ("missing", "rare") and verdicts["1"] == "frequent"
    assert [v for k, v in verdicts.items() if k not in "17"] == [""] * 8


@pytest.mark.parametrize(
    ("tint", "name"),
    [(lambda x: x // 2 + 60, "contrast"), (lambda x: x + 40, "mean"), (lambda x: (x > 100) * 255, "per cent")],
)
def test_grey_and_bright_and_harsh_samples(judge, halves, tint, name):
    """Each shows in the look that it changes."""
    changed = tint(halves[0].int()).clamp(0, 255).to(torch.uint8)
    (judged,) = judge({"tinted": changed}).judged
    assert any(s.name.startswith(name) and s.verdict for s in judged.shifts)
    assert "colour" in found(judge({"tinted": changed}))["tinted"]


def test_a_background_that_no_eye_tells_from_black(judge, halves):
    """A few levels of noise in the dark are no finding; the same background in grey is."""
    noise = torch.randint(0, 13, halves[0].shape, generator=torch.Generator().manual_seed(0))
    dark = torch.maximum(halves[0].int(), noise).to(torch.uint8)
    grey = torch.maximum(halves[0].int(), 24 + noise).to(torch.uint8)
    told = found(judge({"dark": dark, "grey": grey}))
    assert told["dark"] == set() and "colour" in told["grey"]


def test_colour_drained():
    """Towards grey: neither mean nor contrast need show it, the strength of colour does."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (400, 3, 6, 6), generator=generator)
    grey = real.double().mean(1, keepdim=True)
    pale = (0.5 * real + 0.5 * grey).round().to(torch.uint8)
    shifts = class_balance.shifts(
        Moments.of(class_balance.looks(pale)), Moments.of(class_balance.looks(real.to(torch.uint8))), channels=3
    )
    assert {s.name: s.verdict for s in shifts}["strength of colour"] == "low"


def test_looks_by_hand():
    """Of an image of two colours."""
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[0, 0, 0] = 255  # the upper half is red
    looks = dict(zip(class_balance.look_names(3), class_balance.looks(image)[0].tolist(), strict=True))
    assert looks["mean of red"] == 127.5 and looks["contrast of red"] == 127.5 and looks["mean of blue"] == 0
    assert looks["strength of colour"] == 127.5 and looks["per cent black or full"] == 100


def test_equal_shares_raise_no_alarm():
    """Over 200 draws of 10 classes, at most one false word."""
    generator = torch.Generator().manual_seed(0)
    names = tuple("abcdefghij")
    false = 0
    for _ in range(200):
        drawn, real = (
            torch.randint(0, 10, (500,), generator=generator),
            torch.randint(0, 10, (900,), generator=generator),
        )
        false += sum(bool(s.verdict) for s in class_balance.shares(drawn, real, names))
    assert false <= 1


# ---- the whole


def test_distances_are_those_of_the_features(judge, space, train, halves):
    """Streams, parts and blocks change nothing."""
    measured = judge({"real": halves[0]})
    (judged,), (floor,) = measured.judged, measured.floors
    real, samples, held = space.of(train), space.of(halves[0]), space.of(halves[1].get(torch.arange(len(halves[1]))))
    assert judged.frechet.value == pytest.approx(frechet.frechet(Moments.of(samples), Moments.of(real)), rel=1e-5)
    assert floor.frechet.value == pytest.approx(frechet.frechet(Moments.of(held), Moments.of(real)), rel=1e-5)
    assert judged.kernel.value == pytest.approx(prdc.kernel(samples, real).value, rel=1e-4, abs=1e-6)
    hood = prdc.neighbourhoods(real, samples)
    assert judged.neighbourhoods.precision.value == pytest.approx(hood.precision.value, abs=0.01)


@pytest.mark.parametrize("size", [1, 7, 512])
def test_batches_do_not_matter(halves, size):
    """The same moments in the same parts from batches of any size."""
    images, pixels = MemoryImages(halves[0]), Pixels((1, 8, 8))
    whole, cut = (
        tally(RealImages("a", images, batch=10_000), pixels),
        tally(RealImages("a", images, batch=size), pixels),
    )
    assert [p.n for p in whole.parts] == [p.n for p in cut.parts] and len(cut.parts) == 20
    for a, b in zip(whole.parts, cut.parts, strict=True):
        torch.testing.assert_close(a.scatter, b.scatter, rtol=1e-9, atol=1e-9)
    assert torch.equal(whole.pictures, cut.pictures) and torch.equal(whole.seen.features, cut.seen.features)
