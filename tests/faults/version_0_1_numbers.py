"""The numbers of review B on version 0.1, with its names: each function returns whether the fault is there, and how."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Finding = tuple[bool, str]
"""Whether version 0.1 has the fault, and what it did."""
ITEMS: dict[str, tuple[str, Callable[[Path], Finding]]] = {}
"""What is run and the function that runs it in an empty folder, by item of the review."""
TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention": [],
    "network.groups": 4,
    "network.middle_attention": False,
}
D: Any = {"dtype": torch.float64}


def item(name: str, what: str) -> Callable[[Callable[[Path], Finding]], Callable[[Path], Finding]]:
    """Register a function as the reproduction of an item."""

    def register(function: Callable[[Path], Finding]) -> Callable[[Path], Finding]:
        ITEMS[name] = (what, function)
        return function

    return register


def old(name: str) -> Any:
    """A module of version 0.1, which is first on the path."""
    return importlib.import_module(f"fromnoise.{name}")


def model(**values: Any) -> Any:
    """A tiny model of version 0.1."""
    recipe = old("recipe.files").load("digits", TINY | {key.replace("__", "."): v for key, v in values.items()})
    return old("model").build(recipe, old("facts").Facts((1, 8, 8), None, "abc"))


def gaussian(n: int, dim: int, seed: int) -> Tensor:
    """Standard normal vectors."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), **D)


def correlated(n: int, dim: int, seed: int) -> Tensor:
    """Vectors from a correlated Gaussian."""
    return gaussian(n, dim, seed) @ (torch.eye(dim, **D) + 0.5 * gaussian(dim, dim, 99) / math.sqrt(dim))


@item("B1", "standard errors of recall and coverage over 40 sets of samples")
def errors_over_samples(folder: Path) -> Finding:
    """The root mean square of the stated errors over the standard deviation."""
    reference = old("metrics.pairs").Reference(correlated(300, 6, 1))
    found = [reference.neighbourhoods(correlated(100, 6, 10 + i)) for i in range(40)]
    ratios = {}
    for name in ("recall", "coverage"):
        values = torch.tensor([getattr(f, name).value for f in found], **D)
        errors = torch.tensor([getattr(f, name).error for f in found], **D)
        ratios[name] = float(errors.square().mean().sqrt() / values.std())
    text = ", ".join(f"{ratio:.2f} of the deviation of {name}" for name, ratio in ratios.items())
    return max(ratios.values()) < 0.75, f"stated errors are {text}"


@item("B2", "the pseudo-labels of 400 sets of 100 samples")
def stratified_only(folder: Path) -> Finding:
    """Variances of the counts of four clusters, beside those of i.i.d. labels."""
    labels = old("diffusion.centres").Centres(4, (1, 4, 4))
    labels.share.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    counts = torch.stack([labels.deal(seed, torch.arange(100)).bincount(minlength=4) for seed in range(400)])
    variance, share = counts.double().var(0), labels.share.double()
    largest = float((variance / (100 * share * (1 - share))).max())
    return largest < 0.3, f"stratified alone: variances of the counts at most {largest:.3f} of those of i.i.d. labels"


@item("B3", "zero terminal SNR with lognormal times")
def lognormal_times(folder: Path) -> Finding:
    """Whether the recipe is accepted."""
    keys = {"diffusion.zero_terminal": True, "diffusion.schedule": "linear", "diffusion.target": "v"}
    keys |= {"sample.grid": "uniform", "loss.times": "lognormal"}
    try:
        old("recipe.files").load("digits", keys)
    except old("errors").UserError as error:
        return False, str(error)
    return True, "accepted without a word"


@item("B4", "the bound of models with offset noise and with self-conditioning")
def bits_of_other_models(folder: Path) -> Finding:
    """Each is measured as if it were a plain model."""
    pixels = (torch.arange(3 * 64) % 251).reshape(3, 1, 8, 8).to(torch.uint8)
    measure, compute = old("bits").Measure, old("compute").choose("cpu", "fp32")
    plain, offset = (
        measure(model(diffusion__steps=10, sample__steps=5, loss__offset_noise=strength), compute)
        .bound(pixels, None, None)
        .each
        for strength in (0.0, 0.5)
    )
    own = model(diffusion__steps=10, sample__steps=5, loss__self_conditioning=True)
    calls: list[Tensor] = []
    own.denoiser.register_forward_hook(
        lambda net, args, kwargs, out: calls.append(args[3] if len(args) > 3 else kwargs.get("previous")),
        with_kwargs=True,
    )
    measure(own, compute).bound(pixels, None, 1)
    estimates = sum(c is not None for c in calls)
    equal = torch.equal(plain, offset)
    text = f"the bound at offset noise 0 and 0.5 is {'equal' if equal else 'different'}; "
    return equal and not estimates, text + f"{estimates} of {len(calls)} evaluations got the model's own estimate"


def fraction_at_a_mode(rule: Any, levels: Any) -> float:
    """Fraction of 100 samples near one of 12 narrow Gaussians in 16 dimensions, with the exact denoiser."""
    n, dim, variance = 100, 16, 0.002
    generator = torch.Generator().manual_seed(0)
    means = torch.where(torch.rand(12, dim, generator=generator) < 0.5, -0.9, 0.9).double()
    mixture = old("diffusion.mixture").GaussianMixture(
        torch.ones(12, **D), means, variance * torch.eye(dim, **D).expand(12, dim, dim)
    )
    sampler, noise = old("diffusion.sampler"), old("diffusion.noise").Noise(0, torch.arange(n))
    *_, last = sampler.trajectory(mixture, rule, levels, sampler.start((dim,), noise, torch.empty(0, **D)), noise)
    return float((torch.cdist(last.x, means).amin(1) < 1.5 * math.sqrt(dim * variance)).double().mean())


@item("B5", "Heun, 15 steps, cosine table, the recipe's default grid, exact denoiser")
def heun_on_its_default_grid(folder: Path) -> Finding:
    """Fraction of samples at a mode, on the default grid and on logsnr."""
    fractions = []
    for values in ({}, {"sample__grid": "logsnr"}):
        made = model(sample__rule="heun", sample__steps=15, **values)
        config = made.recipe.sample
        fractions.append(fraction_at_a_mode(old("model").rule(config, made), made.levels(config)))
    return fractions[0] < 0.1, f"{fractions[0]:.0%} of the samples reach a mode, {fractions[1]:.0%} on grid logsnr"


@item("B6", "F with the encoder's likelihood of two unit Gaussians, beside log p")
def evidence_counted_twice(folder: Path) -> Finding:
    """The mean excess over log p, and what the documentation says."""
    em, membership = old("cluster.em"), old("diffusion.membership")
    means, shares = torch.tensor([-2.0, 2.0], **D), torch.tensor([0.5, 0.5], **D)
    x = means[torch.arange(2000) % 2] + gaussian(2000, 1, 0)[:, 0]
    nats = 0.5 * (x[:, None] - means) ** 2 + 0.5 * math.log(2 * math.pi)
    log_p = torch.logsumexp(shares.log() - nats, 1)
    terms = nats + em.witness(torch.softmax(shares.log() - nats, 1), 1.0)
    found = membership.evidence(membership.posterior(terms, shares), terms, shares)
    excess, called = float((found - log_p).mean()), "a lower bound on log p" in (em.Round.__doc__ or "")
    return excess > 0.1 and called, f"exceeds log p by {excess:.2f} nats, and is called 'a lower bound on log p'"


@item("B7", "smallest singular value after Muon's iteration, 128 x 128 and 512 x 512")
def singular_values(folder: Path) -> Finding:
    """Beside the range that the docstring states."""
    muon = old("train.muon")
    least = []
    for side in (128, 512):
        matrix = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
        least.append(float(torch.linalg.svdvals(muon.orthogonal([matrix])[0]).min()))
    said = "0.7 .. 1.2" in (muon.orthogonal.__doc__ or "")
    return said and max(least) < 0.5, f"{least[0]:.2f} and {least[1]:.3f}, where the docstring says 0.7 .. 1.2"


@item("B8", "500 noise tensors a step; truncation; the zero of a table; float32 times; two sentences")
def smaller_faults(folder: Path) -> Finding:
    """Six of them."""
    noises, schedule, sampler = old("diffusion.noise"), old("diffusion.schedule"), old("diffusion.sampler")
    rules, noise = old("diffusion.rules"), old("diffusion.noise").Noise(0, torch.arange(1))
    found = []

    class ManyNumbers(rules.DDIM):
        def step(self, denoise: Any, x: Tensor, here: Any, there: Any, fresh: Any, memory: Any) -> Any:
            for _ in range(500):
                fresh()
            return super().step(denoise, x, here, there, fresh, memory)

    predict = old("diffusion.denoiser").Prediction
    x, levels = torch.zeros(1, 1, **D), sampler.uniform(schedule.linear(1000), 3)
    try:
        list(sampler.trajectory(lambda x, level, cond=None, seen=None: predict(x), ManyNumbers(), levels, x, noise))
    except RuntimeError as error:
        found.append(str(error))
    normal, noises.Noise.normal = noises.Noise.normal, lambda *args, **named: torch.tensor([[-7.0, -5.6, 7.0]])
    wide = noises.Noise(0, torch.arange(1), truncation=6.0).image((3,), noises.Draw.START, like=torch.empty(0))
    noises.Noise.normal = normal
    if not bool(torch.isfinite(wide).all()):
        found.append(f"truncation 6 gives {wide[0, 0]:g} and {wide[0, 2]:g}")
    table = schedule.zero_terminal(schedule.linear(1000))
    last = table.logsnr(torch.tensor(0.999, **D))
    if float(table.time(last - 1e-3)) == 1:
        found.append("the time of a finite log-SNR is 1")
    table, k = schedule.linear(1000), torch.arange(1001)
    exact, rounded = (table.at((k.double() / 1000).to(d)).logsnr for d in (torch.float64, torch.float32))
    if int((exact != rounded).sum()):
        found.append(f"{int((exact != rounded).sum())} of 1,001 log-SNR differ at float32 times")
    for sentence, where in (
        ("any T ends in the same noise", schedule.linear),
        ("it shows the estimate itself", old("diffusion.multistep")),
    ):
        if sentence in (where.__doc__ or ""):
            found.append(f"the documentation says '{sentence}'")
    return len(found) == 6, "; ".join(found)


def paintings(n: int, seed: int) -> Tensor:
    """Random smooth images of 28x28 with some detail, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.randn(n, 1, 5, 5, generator=generator), (28, 28), mode="bicubic")
    fine = F.interpolate(torch.randn(n, 1, 14, 14, generator=generator), (28, 28), mode="bilinear")
    return (128 + 50 * coarse + 15 * fine).clamp(0, 255).byte()


@item("B9", "50 copies of 400 images, altered, by all spaces that do not need training")
def altered_copies(folder: Path) -> Finding:
    """Fraction found, for each alteration."""
    train, altered = (
        paintings(400, 0),
        {
            "blurred": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1),
            "shifted": lambda x: x.roll((1, 1), (-2, -1)),
            "dark": lambda x: 0.8 * x,
            "noisy": lambda x: x + 40 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
        },
    )
    pixels, found = old("metrics.features").Pixels((1, 28, 28)), {}
    for name, alter in altered.items():
        copies = alter(train[:50].float()).round().clamp(0, 255).byte()
        nearest = old("metrics.copies").Nearest(pixels.see(copies).features)
        nearest.update(pixels.see(train).features, 0)
        found[name] = float((nearest.ratios < old("metrics.copies").RATIO).double().mean())
    text = ", ".join(f"{fraction:.0%} of those {name}" for name, fraction in found.items())
    return min(found.values()) < 0.5, f"finds {text}"


@item("B10", "the error of held-out minus training bits on the same noise")
def unpaired_errors(folder: Path) -> Finding:
    """Beside that of the differences, 0.5."""
    bits = old("bits")
    bound = bits.BoundBits(torch.zeros(3), 0.0, 0.0, [])
    held_out, training = (bits.Piece(bound, torch.tensor(v)) for v in ([1.0, 3.0], [0.0, 1.0]))
    error = bits.gaps(held_out, training)["flow"].error
    return error > 1, f"{error:.2f}, where the error of the differences is 0.50"
