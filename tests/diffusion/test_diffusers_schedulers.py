"""Whole sampling runs, state by state, against the schedulers of diffusers, from the same noise in float32."""

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
from reference_models import eps_network, flow, gaussian

from fromnoise.diffusion import DDIM, Ancestral, Prediction, schedules
from fromnoise.diffusion.samplers import DPMSolverPP, Heun, UniPC

SPACINGS = ["linspace", "leading", "trailing"]
CASES = [(t, k, s) for t in (1000, 250) for k in (5, 10, 25, 37) for s in SPACINGS]
"""T, steps, spacing."""


def betas(total: int) -> dict:
    """The linear betas of Ho et al., scaled to T, as arguments of a diffusers scheduler."""
    return {"num_train_timesteps": total, "beta_start": 0.1 / total, "beta_end": 20 / total}


def noises(steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    g = torch.Generator().manual_seed(steps)
    x = torch.randn(2, 3, 4, 4, generator=g)
    return x, [torch.randn(x.shape, generator=g) for _ in range(steps)]


def run_sampler(sampler, total: int, ks: list[int], x, fresh):
    """The states of our sampler on the steps ``ks`` of T."""
    table, memory, out = schedules.linear(total), sampler.start(), []
    path = [table.at(k / total) for k in ks]

    def denoise(v, level):
        return Prediction((v - level.sigma * eps_network(v, 1000 * float(level.t))) / level.alpha)

    for level_t, level_s, z in zip(path[:-1], path[1:], fresh, strict=True):
        x, _, memory = sampler.step(denoise, x, level_t, level_s, lambda z=z: z, memory)
        out.append(x)
    return out


def steps_of(scheduler, steps: int) -> list[int]:
    """The steps of a diffusers scheduler in our numbering (1 to T), and 0, the clean image."""
    scheduler.set_timesteps(steps)
    return [round(float(t)) + 1 for t in scheduler.timesteps] + [0]


def assert_close(ours, theirs, where):
    assert float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)) < 1e-4, where


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(("kind", "f"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm(total, steps, spacing, kind, f, monkeypatch):
    """Ancestral sampling with both variances.

    diffusers computes the step before t from equal spacing, also where the spacing is not equal (diffusers 0.42,
    ``previous_timestep``): our sampler is compared on the same pairs of steps.
    """
    scheduler = DDPMScheduler(**betas(total), variance_type=kind, clip_sample=False, timestep_spacing=spacing)
    ks = steps_of(scheduler, steps)
    previous = [max(0, int(scheduler.previous_timestep(k - 1)) + 1) for k in ks[:-1]]
    x, fresh = noises(steps)
    for k, j, z in zip(ks[:-1], previous, fresh, strict=True):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, z=z, **kw: z)
        y = scheduler.step(eps_network(x, 1000 * k / total), k - 1, x).prev_sample
        (ours,) = run_sampler(Ancestral(f), total, [k, j], x, [z])
        if j > 0 or kind == "fixed_small":  # at the last step diffusers adds noise of the large variance where t > 0
            assert_close(ours, y, k)
        x = y


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim(total, steps, spacing, eta):
    """With and without noise; as above, diffusers steps by the equal spacing."""
    scheduler = DDIMScheduler(**betas(total), clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing)
    ks = steps_of(scheduler, steps)
    x, fresh = noises(steps)
    for k, z in zip(ks[:-1], fresh, strict=True):
        j = max(0, k - total // steps)
        y = scheduler.step(
            eps_network(x, 1000 * k / total), k - 1, x, eta=eta if j else 0.0, variance_noise=z
        ).prev_sample
        (ours,) = run_sampler(DDIM(eta), total, [k, j], x, [z])
        assert_close(ours, y, k)
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


class FixedThirdOrder(DPMSolverMultistepScheduler):
    """The third-order update of diffusers with its D2 term corrected.

    D2 = (D1_0 - D1_1)/(r0 + r1) is half of the second derivative and is used as the whole (diffusers 0.42, as in
    dpm_solver_pytorch.py, multistep_dpm_solver_third_update; the single-step solver of that file has the factor 2, as
    quoted in github.com/LuChengTHU/dpm-solver/issues/43), so that the update is of second order only:
    ``test_third_order_of_diffusers_is_of_second_order``. In the SDE update, added by
    github.com/huggingface/diffusers/pull/9104, the weight c - 0.5 tends to -1 for small steps, where the integral of a
    second-order term tends to 0: the sign is wrong, the weight is c + 0.5.
    """

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, sample=None, noise=None, **kwargs):
        i = self.step_index
        alphas, sigmas = zip(
            *(self._sigma_to_alpha_sigma_t(self.sigmas[j]) for j in (i + 1, i, i - 1, i - 2)), strict=True
        )
        late, now, previous, first = (torch.log(a) - torch.log(s) for a, s in zip(alphas, sigmas, strict=True))
        m0, m1, m2 = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        h, r0, r1 = late - now, (now - previous) / (late - now), (previous - first) / (late - now)
        d2 = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
        if self.config.algorithm_type == "dpmsolver++":
            correction = -alphas[0] * ((torch.exp(-h) - 1.0 + h) / h**2 - 0.5) * d2
        else:
            c = (1.0 - torch.exp(-2.0 * h) - 2.0 * h) / (2.0 * h) ** 2
            correction = alphas[0] * (2 * (c + 0.5) - (c - 0.5)) * d2
        noise_argument = {} if noise is None else {"noise": noise}
        return (
            super().multistep_dpm_solver_third_order_update(model_output_list, sample=sample, **noise_argument)
            + correction
        )


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(
    ("kind", "order", "sampler"), MULTISTEP, ids=lambda v: str(v) if not hasattr(v, "step") else ""
)
def test_multistep(total, steps, spacing, kind, order, sampler):
    """The last two states of unipc 3, which diffusers computes at a lower order, are not compared."""
    config = {**betas(total), "solver_order": order, "timestep_spacing": spacing, "lower_order_final": kind == "unipc"}
    scheduler = UniPCMultistepScheduler(**config) if kind == "unipc" else FixedThirdOrder(**config, algorithm_type=kind)
    ks = steps_of(scheduler, steps)
    assert sorted(set(ks), reverse=True) == ks
    y, fresh = noises(steps)
    ours = run_sampler(sampler, total, ks, y, fresh)
    compared = steps - 2 if (kind, order) == ("unipc", 3) else steps
    for i, (t, z) in enumerate(zip(scheduler.timesteps, fresh, strict=True)):
        extra = {"variance_noise": z} if kind.startswith("sde") else {}
        y = scheduler.step(eps_network(y, 1000 * ks[i] / total), t, y, **extra).prev_sample
        if i < compared:
            assert_close(ours[i], y, (i, int(t)))


def test_third_order_of_diffusers_is_of_second_order():
    """Why ``FixedThirdOrder`` is needed: on a Gaussian with a known flow the scheduler has order 2, ours 3."""
    errors = []
    for steps in (40, 80):
        scheduler = DPMSolverMultistepScheduler(
            **betas(1000), solver_order=3, timestep_spacing="trailing", use_lu_lambdas=True, lower_order_final=False
        )
        scheduler.set_timesteps(steps)
        alphas = 1 / (scheduler.sigmas.double() ** 2 + 1).sqrt()
        path = [
            schedules.NoiseLevel(a, a, s * a, 2 * torch.log(1 / s))
            for a, s in zip(alphas, scheduler.sigmas.double(), strict=True)
        ]
        x = y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        # the first two steps have a lower order: the exact flow replaces them
        for i, t in enumerate(scheduler.timesteps[:-1]):
            prediction = gaussian()(y, path[i]).x0
            y = scheduler.step(path[i].eps(y, prediction), t, y).prev_sample.double()
            if i < 2:
                y = flow(x, path[0], path[i + 1])
        errors.append(float((y - flow(x, path[0], path[-2])).norm()))
    assert math.log2(errors[0] / errors[1]) < 2.5


def in_sigma(scheduler, steps: int) -> list[int]:
    """Set integer steps: at the fractions of linspace diffusers interpolates sigma and this package log alpha^2."""
    scheduler.set_timesteps(steps)
    whole = sorted({round(float(t)) for t in scheduler.timesteps}, reverse=True)
    scheduler.set_timesteps(timesteps=whole)
    return [t + 1 for t in whole] + [0]


@pytest.mark.parametrize(("total", "steps", "spacing"), CASES)
@pytest.mark.parametrize(
    ("scheduler_class", "sampler"),
    [(EulerDiscreteScheduler, DDIM(0.0)), (HeunDiscreteScheduler, Heun())],
    ids=["euler", "heun"],
)
def test_euler_and_heun(total, steps, spacing, scheduler_class, sampler):
    """Euler in sigma/alpha is DDIM(0); Heun is compared after each second evaluation. diffusers holds x/alpha."""
    scheduler, table = scheduler_class(**betas(total), timestep_spacing=spacing), schedules.linear(total)
    ks = in_sigma(scheduler, steps)
    x, fresh = noises(len(ks) - 1)
    ours = run_sampler(sampler, total, ks, x, fresh)
    calls = [round(float(t)) for t in scheduler.timesteps]
    y, done = x / table.at(ks[0] / total).alpha, 0
    for i, t in enumerate(scheduler.timesteps):
        y = scheduler.step(
            eps_network(scheduler.scale_model_input(y, t), 1000 * (calls[i] + 1) / total), t, y
        ).prev_sample
        if scheduler_class is EulerDiscreteScheduler or scheduler.state_in_first_order or i + 1 == len(calls):
            assert_close(ours[done], y * table.at(ks[done + 1] / total).alpha, i)
            done += 1
    assert done == len(ours)
