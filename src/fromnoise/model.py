"""From a recipe's names to objects: the only place that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise import networks
from fromnoise.config import DiffusionRecipe, LossRecipe, Recipe, SampleRecipe
from fromnoise.data.dataset_info import Facts
from fromnoise.data.pseudo_labels import Centres
from fromnoise.diffusion import guidance, losses, sampling, schedules, targets, time_samplers
from fromnoise.diffusion.denoiser import Denoise, Denoiser, Index
from fromnoise.diffusion.inverse.operators import Operator
from fromnoise.diffusion.inverse.repaint import Repaint
from fromnoise.diffusion.likelihood import ode
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.samplers import base, multistep
from fromnoise.diffusion.samplers.base import Rule
from fromnoise.utils.errors import UserError

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
    schedule: schedules.Schedule

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.denoiser.parameters() if p.requires_grad)

    def objective(self) -> losses.Objective:
        """What training minimises."""
        chosen = self.recipe.loss
        return losses.Objective(
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

    def levels(self, how: SampleRecipe) -> list[schedules.Level]:
        """The levels that sampling visits.

        Raises:
            UserError: more steps than the table has.
        """
        try:
            grid = {
                "uniform": sampling.uniform,
                "trailing": sampling.uniform,  # the same by its other name
                "quadratic": sampling.quadratic,
                "logsnr": sampling.logsnr,
                "karras": sampling.karras,
                "leading": sampling.leading,
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
        "repaint": (unwrapped, lambda r: Repaint(base.DDIM(1.0), operator, y, effort or 10)),
    }
    if name not in known:
        raise UserError(f"no solver is called {name!r}: there are {', '.join(known)}")
    if effort is not None and (effort < 1 or name not in ("posterior", "repaint")):
        raise UserError(f"an effort of {effort} is not to be had of {name}: posterior and repaint take 1 or more")
    return known[name]


def rule(how: SampleRecipe, model: Model) -> base.Rule:
    """The step rule by name.

    Raises:
        UserError: it needs more steps.
    """
    ancestral = base.Ancestral(model.variance(how))
    chosen: base.Rule = {
        "ancestral": ancestral,
        "ddim": base.DDIM(how.eta),
        "euler": base.DDIM(0.0),  # the same step: see base.Heun
        "heun": base.Heun(model.schedule, how.churn),
        "dpmpp-2m": multistep.DPMpp(2),
        "dpmpp-3m": multistep.DPMpp(3),
        "dpmpp-2m-sde": multistep.DPMpp(2, noisy=True),
        "unipc": multistep.UniPC(2),
        "ipndm": multistep.Adams(3),
        "pc": base.Corrected(ancestral, how.snr),
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
        "eps": lambda: targets.Eps(),
        "x0": lambda: targets.X0(),
        "v": lambda: targets.V(),
        "karras": lambda: targets.Karras(recipe.diffusion.deviation),
        "mean": lambda: targets.Mean(table),
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


def _schedule(how: DiffusionRecipe) -> schedules.Schedule:
    if how.schedule == "cosine-continuous":
        return schedules.Cosine()
    table = {
        "linear": lambda steps: schedules.linear(steps, how.beta_first, how.beta_last, rescale=how.rescale),
        "cosine": schedules.cosine,
        "sigmoid": schedules.sigmoid,
    }[how.schedule](how.steps)
    return schedules.zero_terminal(table) if how.zero_terminal else table


def _loss(how: LossRecipe, table: schedules.Schedule, variance: float | None) -> losses.Loss:
    if how.weighting == "bound":
        return losses.TrueBound(table, variance)
    weighting = {
        "hybrid": lambda: losses.Simple(),
        "simple": lambda: losses.Simple(),
        "min-snr": lambda: losses.MinSNR(how.gamma or 5.0),
        "p2": lambda: losses.P2(how.k, how.gamma or 1.0),
    }[how.weighting]()
    regression = losses.Regression({"mse": losses.mse, "mae": losses.mae, "huber": losses.huber}[how.metric], weighting)
    return losses.Hybrid(regression, losses.TrueBound(table, None)) if how.weighting == "hybrid" else regression


def _times(how: LossRecipe, table: schedules.Schedule) -> time_samplers.Times:
    return {
        "uniform": lambda: time_samplers.Uniform(),
        "stratified": lambda: time_samplers.Stratified(),
        "lognormal": lambda: time_samplers.LogNormal(how.noise_mean, how.noise_deviation),
        "importance": lambda: time_samplers.Importance(table.steps or 1000),
    }[how.times]()


def _network(recipe: Recipe, facts: Facts) -> nn.Module:
    channels, height, width = facts.shape
    how = recipe.network
    if how.kind == "pulfer":
        return networks.Pulfer(channels, steps=recipe.diffusion.steps, size=(height, width))
    if how.kind == "simple":
        return networks.Simple(channels)
    return networks.UNet(
        channels * (2 if recipe.loss.self_conditioning else 1),
        channels * (2 if recipe.diffusion.learned_variance else 1),
        width=how.width,
        multipliers=how.multipliers,
        blocks=how.blocks,
        blocks_up=how.blocks_up,
        attention=networks.attention_levels(how.attention, height, width, how.multipliers, how.patch),
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
