"""Whole ways down, state by state, with the schedulers of diffusers, from the same noise in float32."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm
from test_conformance import flow, gaussian
from test_rules import net

from fromnoise.diffusion import DDIM, Ancestral, Prediction, schedules
from fromnoise.diffusion.samplers import DPMSolverPP, Heun, UniPC

SPACINGS = ["linspace", "leading", "trailing"]
CASES = [(t, k, s) for t in (1000, 250) for k in (5, 10, 25, 37) for s in SPACINGS]
"""T, steps, spacing."""


def betas(total: int) -> dict:
    """Ho et al.'s, scaled to T, as diffusers takes them."""
    return {"num_train_timesteps": total, "beta_start": 0.1 / total, "beta_end": 20 / total}


def noises(steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    g = torch.Generator().manual_seed(steps)
    x = torch.randn(2, 3, 4, 4, generator=g)
    return x, [torch.randn(x.shape, generator=g) for _ in range(steps)]


def walk(sampler, total: int, ks: list[int], x, fresh):
    """Our states on the steps ``ks`` of T."""
    table, memory, out = schedules.linear(total), sampler.start(), []
    path = [table.at(k / total) for k in ks]

    def denoise(v, level):
        return Prediction((v - level.sigma * net(v, 1000 * float(level.t))) / level.alpha)

    for level_t, level_s, z in zip(path[:-1], path[1:], fresh, strict=True):
        x, _, memory = sampler.step(denoise, x, level_t, level_s, lambda z=z: z, memory)
        out.append(x)
    return out


def steps_of(theirs, steps: int) -> list[int]:
    """The steps that theirs visits, as ours are numbered, and the clean image."""
    theirs.set_timesteps(steps)
    return [round(float(t)) + 1 for t in theirs.timesteps] + [0]


def agree(mine, theirs, where):
    assert float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1)) < 1e-4, where


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(("kind", "f"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm(total, steps, spacing, kind, f, monkeypatch):
    """Ancestral with both variances.

    Theirs takes for the step before t the one that equal spacing would have, also where the spacing is not equal
    (diffusers 0.42, ``previous_timestep``): ours is compared with the steps that it takes itself to go to.
    """
    theirs = DDPMScheduler(**betas(total), variance_type=kind, clip_sample=False, timestep_spacing=spacing)
    ks = steps_of(theirs, steps)
    before = [max(0, int(theirs.previous_timestep(k - 1)) + 1) for k in ks[:-1]]
    x, fresh = noises(steps)
    for k, j, z in zip(ks[:-1], before, fresh, strict=True):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, z=z, **kw: z)
        y = theirs.step(net(x, 1000 * k / total), k - 1, x).prev_sample
        (mine,) = walk(Ancestral(f), total, [k, j], x, [z])
        if j > 0 or kind == "fixed_small":  # at the end theirs adds the large variance's noise where t > 0
            agree(mine, y, k)
        x = y


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(total, steps, spacing, eta):
    """With and without noise; where theirs steps, as above, by the equal spacing."""
    theirs = DDIMScheduler(**betas(total), clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing)
    ks = steps_of(theirs, steps)
    x, fresh = noises(steps)
    for k, z in zip(ks[:-1], fresh, strict=True):
        j = max(0, k - total // steps)
        y = theirs.step(net(x, 1000 * k / total), k - 1, x, eta=eta if j else 0.0, variance_noise=z).prev_sample
        (mine,) = walk(DDIM(eta), total, [k, j], x, [z])
        agree(mine, y, k)
        x = y


MULTISTEP = [
    ("dpmsolver++", 1, DPMSolverPP(1)),
    ("dpmsolver++", 2, DPMSolverPP(2)),
    ("sde-dpmsolver++", 1, Ancestral(0.0)),
    ("sde-dpmsolver++", 2, DPMSolverPP(2, sde=True)),
    ("dpmsolver++", 3, DPMSolverPP(3)),
    ("sde-dpmsolver++", 3, DPMSolverPP(3, sde=True)),
    ("unipc", 1, UniPC(1)),
    ("unipc", 2, UniPC(2)),
    ("unipc", 3, UniPC(3)),
]


class Mended(DPMSolverMultistepScheduler):
    """Their third order with its D2 once more.

    It is (D1_0 - D1_1)/(r0 + r1), half of the second derivative, and weighed as the whole (diffusers 0.42, as in
    dpm_solver_pytorch.py, multistep_dpm_solver_third_update; the single-step solver of that file has the 2, as quoted
    in github.com/LuChengTHU/dpm-solver/issues/43). That theirs is of second order only is ``test_their_third_order``.
    In the SDE's, added by github.com/huggingface/diffusers/pull/9104, the weight c - 0.5 tends to -1 for small steps,
    where the integral of a second-order term tends to 0: a sign, c + 0.5 is meant.
    """

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, sample=None, noise=None, **kwargs):
        i = self.step_index
        alphas, sigmas = zip(
            *(self._sigma_to_alpha_sigma_t(self.sigmas[j]) for j in (i + 1, i, i - 1, i - 2)), strict=True
        )
        late, now, before, first = (torch.log(a) - torch.log(s) for a, s in zip(alphas, sigmas, strict=True))
        m0, m1, m2 = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        h, r0, r1 = late - now, (now - before) / (late - now), (before - first) / (late - now)
        bend = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
        if self.config.algorithm_type == "dpmsolver++":
            more = -alphas[0] * ((torch.exp(-h) - 1.0 + h) / h**2 - 0.5) * bend
        else:
            c = (1.0 - torch.exp(-2.0 * h) - 2.0 * h) / (2.0 * h) ** 2
            more = alphas[0] * (2 * (c + 0.5) - (c - 0.5)) * bend
        given = {} if noise is None else {"noise": noise}
        return super().multistep_dpm_solver_third_order_update(model_output_list, sample=sample, **given) + more


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(
    ("kind", "order", "sampler"), MULTISTEP, ids=lambda v: str(v) if not hasattr(v, "step") else ""
)
def test_multistep(total, steps, spacing, kind, order, sampler):
    """The last two states of unipc 3, which theirs takes at lower order by choice, are not compared."""
    config = {**betas(total), "solver_order": order, "timestep_spacing": spacing, "lower_order_final": kind == "unipc"}
    theirs = UniPCMultistepScheduler(**config) if kind == "unipc" else Mended(**config, algorithm_type=kind)
    ks = steps_of(theirs, steps)
    assert sorted(set(ks), reverse=True) == ks
    y, fresh = noises(steps)
    mine = walk(sampler, total, ks, y, fresh)
    compared = steps - 2 if (kind, order) == ("unipc", 3) else steps
    for i, (t, z) in enumerate(zip(theirs.timesteps, fresh, strict=True)):
        extra = {"variance_noise": z} if kind.startswith("sde") else {}
        y = theirs.step(net(y, 1000 * ks[i] / total), t, y, **extra).prev_sample
        if i < compared:
            agree(mine[i], y, (i, int(t)))


def test_their_third_order():
    """Why theirs is mended: on a Gaussian, whose flow is known, it is of second order; ours of third (test_order)."""
    errors = []
    for steps in (40, 80):
        theirs = DPMSolverMultistepScheduler(
            **betas(1000), solver_order=3, timestep_spacing="trailing", use_lu_lambdas=True, lower_order_final=False
        )
        theirs.set_timesteps(steps)
        alphas = 1 / (theirs.sigmas.double() ** 2 + 1).sqrt()
        path = [
            schedules.NoiseLevel(a, a, s * a, 2 * torch.log(1 / s))
            for a, s in zip(alphas, theirs.sigmas.double(), strict=True)
        ]
        x = y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        # the first steps are of lower order: they are taken along the flow itself, so that only the third order errs
        for i, t in enumerate(theirs.timesteps[:-1]):
            prediction = gaussian()(y, path[i]).x0
            y = theirs.step(path[i].eps(y, prediction), t, y).prev_sample.double()
            if i < 2:
                y = flow(x, path[0], path[i + 1])
        errors.append(float((y - flow(x, path[0], path[-2])).norm()))
    assert math.log2(errors[0] / errors[1]) < 2.5


def in_sigma(theirs, steps: int) -> list[int]:
    """Set whole steps: linspace would keep fractions, at which theirs interpolates sigma and ours log alpha^2."""
    theirs.set_timesteps(steps)
    whole = sorted({round(float(t)) for t in theirs.timesteps}, reverse=True)
    theirs.set_timesteps(timesteps=whole)
    return [t + 1 for t in whole] + [0]


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(
    ("made", "sampler"), [(EulerDiscreteScheduler, DDIM(0.0)), (HeunDiscreteScheduler, Heun())], ids=["euler", "heun"]
)
def test_in_sigma(total, steps, spacing, made, sampler):
    """Euler in sigma/alpha is DDIM(0); Heun compared after each second evaluation. Theirs hold x/alpha."""
    theirs, table = made(**betas(total), timestep_spacing=spacing), schedules.linear(total)
    ks = in_sigma(theirs, steps)
    x, fresh = noises(len(ks) - 1)
    mine = walk(sampler, total, ks, x, fresh)
    calls = [round(float(t)) for t in theirs.timesteps]
    y, done = x / table.at(ks[0] / total).alpha, 0
    for i, t in enumerate(theirs.timesteps):
        y = theirs.step(net(theirs.scale_model_input(y, t), 1000 * (calls[i] + 1) / total), t, y).prev_sample
        if made is EulerDiscreteScheduler or theirs.state_in_first_order or i + 1 == len(calls):
            agree(mine[done], y * table.at(ks[done + 1] / total).alpha, i)
            done += 1
    assert done == len(mine)
