"""From a recipe's names to objects: the only place that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise import nets
from fromnoise.diffusion import guidance, loss, multistep, ode, rules, sampler, schedule, target, times
from fromnoise.diffusion.centres import Centres
from fromnoise.diffusion.denoiser import Denoise, Denoiser, Index
from fromnoise.diffusion.inverse import Operator
from fromnoise.diffusion.noise import Noise
from fromnoise.diffusion.repaint import Repaint
from fromnoise.diffusion.rules import Rule
from fromnoise.errors import UserError
from fromnoise.facts import Facts
from fromnoise.recipe import DiffusionRecipe, LossRecipe, Recipe, SampleRecipe

Wrap = Callable[[Denoise], Denoise]
"""Puts a denoiser into a wrapper (``diffusion/guidance``)."""


def unwrapped(denoise: Denoise) -> Denoise:
    """No wrapper."""
    return denoise


@dataclass(frozen=True)
class Model:
    """A recipe made into objects: a denoiser on a schedule, and what its images are."""

    recipe: Recipe
    facts: Facts
    denoiser: Denoiser
    schedule: schedule.Schedule

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.denoiser.parameters() if p.requires_grad)

    def objective(self) -> loss.Objective:
        """What training minimises."""
        chosen = self.recipe.loss
        return loss.Objective(
            self.denoiser,
            self.schedule,
            _loss(chosen, self.schedule, self.variance(self.recipe.sample)),
            _times(chosen, self.schedule),
            seed=self.recipe.train.seed,
            offset_noise=chosen.offset_noise,
            label_dropout=chosen.label_dropout,
        )

    def variance(self, how: SampleRecipe) -> float | None:
        """That of the ancestral rule; None is the learned one, if the model has one and ``how`` says no other."""
        if how.variance is None and not self.denoiser.learned_spread:
            return 0.0
        return how.variance

    def levels(self, how: SampleRecipe) -> list[schedule.Level]:
        """The levels that sampling visits.

        Raises:
            UserError: more steps than the table has.
        """
        try:
            grid = {
                "uniform": sampler.uniform,
                "trailing": sampler.uniform,  # the same by its other name
                "quadratic": sampler.quadratic,
                "logsnr": sampler.logsnr,
                "karras": sampler.karras,
                "leading": sampler.leading,
            }[how.grid]
            return grid(self.schedule, how.steps or self.schedule.steps or 250)
        except ValueError as e:
            raise UserError(str(e)) from None

    def guided(self, how: SampleRecipe, wrap: Wrap = unwrapped, wrap_last: Wrap = unwrapped) -> Denoise:
        """The denoiser in its wrappers.

        Args:
            how: which, and how strong.
            wrap: guidance of the caller's own, around the classifier-free and within the interval.
            wrap_last: around all but the limits to the range of pixels, at every level.
        """
        data = self.recipe.data
        clusters = self.denoiser.centres is not None and self.facts.labels is None
        told = data.labels or data.attributes or clusters
        plain: Denoise = self.denoiser if told else guidance.Untold(self.denoiser)  # a classifier may hear labels alone
        denoise = plain
        if how.guidance != 1:
            denoise = guidance.ClassifierFree(denoise, how.guidance, how.rescale)
        denoise = wrap(denoise)
        span = how.interval_logsnr
        if how.interval is not None:
            late, early = self.schedule.logsnr(torch.tensor(how.interval[::-1], dtype=torch.float64)).tolist()
            span = (late, early)
        if span is not None and denoise is not plain:
            denoise = guidance.During(denoise, plain, *span)
        return limited(wrap_last(denoise), how)

    def dealt(self, ids: Tensor, seed: int) -> Tensor | None:
        """What samples are told if nothing is asked: clusters by their shares (B,); None for a model without."""
        centres = self.denoiser.centres
        return centres.deal(seed, ids) if centres is not None else None

    def noise(self, how: SampleRecipe, ids: Tensor, seed: int) -> Noise:
        """The noise of samples: that of the forward process which the model learned, and truncated if asked."""
        return Noise(seed, ids, self.recipe.loss.offset_noise, how.truncation)

    def shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(C, H, W) of pictures of this ``size``; None for that of the training images.

        Raises:
            UserError: the network is built for one size.
        """
        channels, *own = self.facts.shape
        if size is None or list(size) == own:
            return self.facts.shape
        if self.recipe.network.kind == "pulfer":
            raise UserError(f"this network is built for {own[0]}x{own[1]} pixels alone: leave out the size")
        return channels, *size


def limited(denoise: Denoise, how: SampleRecipe) -> Denoise:
    """The denoiser with x_0 kept within the range of pixels."""
    if how.threshold is not None:
        return guidance.Threshold(denoise, how.threshold)
    return guidance.Clip(denoise) if how.clip else denoise


def solver(name: str, operator: Operator, y: Tensor, effort: int | None = None) -> tuple[Wrap, Callable[[Rule], Rule]]:
    """A way to draw images that give y: what it does to the denoiser, and to the rule.

    Args:
        name: posterior, pigdm, projected or repaint.
        operator: A.
        y: what is known.
        effort: iterations of posterior (3 if left out), passes of repaint (10).

    Raises:
        UserError: no solver is called so, or it has no effort to choose.
    """
    known: dict[str, tuple[Wrap, Callable[[Rule], Rule]]] = {
        "posterior": (lambda d: guidance.Posterior(d, operator, y, effort or 3), lambda r: r),
        "pigdm": (lambda d: guidance.PiGDM(d, operator, y, 0.5), lambda r: r),
        "projected": (lambda d: guidance.Projected(d, operator, y), lambda r: r),
        "repaint": (unwrapped, lambda r: Repaint(rules.DDIM(1.0), operator, y, effort or 10)),
    }
    if name not in known:
        raise UserError(f"no solver is called {name!r}: there are {', '.join(known)}")
    if effort is not None and (effort < 1 or name not in ("posterior", "repaint")):
        raise UserError(f"an effort of {effort} is not to be had of {name}: posterior and repaint take 1 or more")
    return known[name]


def rule(how: SampleRecipe, model: Model) -> rules.Rule:
    """The step rule by name.

    Raises:
        UserError: it needs more steps.
    """
    ancestral = rules.Ancestral(model.variance(how))
    chosen: rules.Rule = {
        "ancestral": ancestral,
        "ddim": rules.DDIM(how.eta),
        "euler": rules.DDIM(0.0),  # the same step: see rules.Heun
        "heun": rules.Heun(model.schedule, how.churn),
        "dpmpp-2m": multistep.DPMpp(2),
        "dpmpp-3m": multistep.DPMpp(3),
        "dpmpp-2m-sde": multistep.DPMpp(2, noisy=True),
        "unipc": multistep.UniPC(2),
        "ipndm": multistep.Adams(3),
        "pc": rules.Corrected(ancestral, how.snr),
        "sde": ode.ReverseSDE(),
    }[how.rule]
    steps = how.steps or model.schedule.steps or 250
    if steps < chosen.fewest:
        raise UserError(f"rule {how.rule} needs at least {chosen.fewest} steps, not {steps}: take more, or rule ddim")
    return chosen


def build(recipe: Recipe, facts: Facts, seed: int | None = None, device: str = "cpu") -> Model:
    """Make the model that a recipe describes, with fresh weights.

    Args:
        recipe: every choice.
        facts: shape and labels of the data.
        seed: of the initial weights; None takes the recipe's.
        device: where the weights are made; "meta" makes none, for counting.

    Raises:
        UserError: the choices cannot work together.
    """
    table = _schedule(recipe.diffusion)
    goal = {
        "eps": lambda: target.Eps(),
        "x0": lambda: target.X0(),
        "v": lambda: target.V(),
        "karras": lambda: target.Karras(recipe.diffusion.deviation),
        "mean": lambda: target.Mean(table),
    }[recipe.diffusion.target]()
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(recipe.train.seed if seed is None else seed)
        try:
            net = _network(recipe, facts)
        except ValueError as e:
            raise UserError(f"this network cannot be built: {e}") from None
    clock = Index(table.steps or 1000)
    denoiser = Denoiser(
        net,
        goal,
        clock,
        self_conditioning=recipe.loss.self_conditioning,
        learned_spread=recipe.diffusion.learned_variance,
        centres=Centres(recipe.clusters, facts.shape) if recipe.clusters else None,
    )
    return Model(recipe, facts, denoiser, table)


def _schedule(how: DiffusionRecipe) -> schedule.Schedule:
    if how.schedule == "cosine-continuous":
        return schedule.Cosine()
    table = {
        "linear": lambda steps: schedule.linear(steps, how.beta_first, how.beta_last, rescale=how.rescale),
        "cosine": schedule.cosine,
        "sigmoid": schedule.sigmoid,
    }[how.schedule](how.steps)
    return schedule.zero_terminal(table) if how.zero_terminal else table


def _loss(how: LossRecipe, table: schedule.Schedule, variance: float | None) -> loss.Loss:
    if how.weighting == "bound":
        return loss.TrueBound(table, variance)
    weighting = {
        "hybrid": lambda: loss.Simple(),
        "simple": lambda: loss.Simple(),
        "min-snr": lambda: loss.MinSNR(how.gamma or 5.0),
        "p2": lambda: loss.P2(how.k, how.gamma or 1.0),
    }[how.weighting]()
    regression = loss.Regression({"mse": loss.mse, "mae": loss.mae, "huber": loss.huber}[how.metric], weighting)
    return loss.Hybrid(regression, loss.TrueBound(table, None)) if how.weighting == "hybrid" else regression


def _times(how: LossRecipe, table: schedule.Schedule) -> times.Times:
    return {
        "uniform": lambda: times.Uniform(),
        "stratified": lambda: times.Stratified(),
        "lognormal": lambda: times.LogNormal(how.noise_mean, how.noise_deviation),
        "importance": lambda: times.Importance(table.steps or 1000),
    }[how.times]()


def _network(recipe: Recipe, facts: Facts) -> nn.Module:
    channels, height, width = facts.shape
    how = recipe.network
    if how.kind == "pulfer":
        return nets.Pulfer(channels, steps=recipe.diffusion.steps, size=(height, width))
    if how.kind == "simple":
        return nets.Simple(channels)
    return nets.UNet(
        channels * (2 if recipe.loss.self_conditioning else 1),
        channels * (2 if recipe.diffusion.learned_variance else 1),
        width=how.width,
        multipliers=how.multipliers,
        blocks=how.blocks,
        blocks_up=how.blocks_up,
        attention=nets.attention_levels(how.attention, height, width, how.multipliers, how.patch),
        middle_attention=how.middle_attention,
        heads=how.heads,
        dropout=how.dropout,
        groups=how.groups,
        conditioning=how.conditioning,
        classes=len(facts.labels) if facts.labels else recipe.clusters,
        attributes=[(a.mean, a.deviation) for a in facts.attributes or ()],
        upsampling=how.upsampling,
        patch=how.patch,
        positions=how.positions,
        time_dim=how.time_dim,
        recompute=how.recompute,
        init=how.init,
        zero_output=how.zero_output,
    )
