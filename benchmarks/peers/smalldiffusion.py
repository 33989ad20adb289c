"""smalldiffusion, by its own training loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from foreign import foreign
from torch import Tensor

from peers.common import Budget, Sampler, Task, Trained, accelerator, with_weights


class Loader:
    """Batches for ``training_loop``, which asks for them anew in each epoch."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        """Images without labels."""
        return (x for x, _ in self._batches)


def smalldiffusion(task: Task, budget: Budget, bf16: bool, network: str = "unet") -> Trained:
    """examples/fashion_mnist_unet.py, fashion_mnist_dit.py and cifar_unet.py; batches of 128 in place of 1,024 and 256.

    With 1,024 images a step there would be a few dozen steps in ten minutes on two cores.
    """
    sd, torch_ema = foreign("smalldiffusion"), foreign("torch_ema")
    channels, size = task.shape[0], task.shape[-1]
    grey, batch = channels == 1, 128
    if not grey:
        net = sd.Scaled(sd.Unet)(size, channels, channels, ch=128, ch_mult=(1, 2, 2, 2), attn_resolutions=(16,))
        schedule, sampling = sd.ScheduleSigmoid(N=1000), sd.ScheduleLogLinear(sigma_min=0.01, sigma_max=35, N=1000)
        decay, lr, steps, gam = 0.9999, 2e-4, 10, 2.1
    elif network == "unet":
        net = sd.Scaled(sd.Unet)(size, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,))
        schedule = sampling = sd.ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        decay, lr, steps, gam = 0.999, 7e-4, 20, 1.6
    else:
        net = sd.DiT(in_dim=size, channels=1, patch_size=2, depth=6, head_dim=32, num_heads=6, mlp_ratio=4.0)
        schedule = sampling = sd.ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)
        decay, lr, steps, gam = 0.99, 1e-3, 20, 1.6
    accelerate = accelerator(bf16)
    ema = torch_ema.ExponentialMovingAverage(net.parameters(), decay=decay)
    done = 0
    loader = Loader(task.batches(batch, flip=True))
    for _ in sd.training_loop(loader, net, schedule, epochs=10**9, lr=lr, accelerator=accelerate):
        if done:
            ema.update()
        if not budget.left():
            break
        done += 1  # the loop hands over before a step's backward pass, so that the last step is not taken
    averaged = copy.deepcopy(net)
    ema.copy_to(averaged.parameters())

    def sampler(steps: int, gam: float) -> Sampler:
        def sample(count: int) -> Tensor:
            with accelerate.autocast():
                *_, x = sd.samples(net, sampling.sample_sigmas(steps), gam=gam, batchsize=count, accelerator=accelerate)
            return x.float()

        return sample

    samplers, more = {}, 50 if grey else 20
    for name, chosen in {
        f"its own, {steps} steps, gam {gam}": sampler(steps, gam),
        f"its own, {more} steps, gam 2": sampler(more, 2.0),
    }.items():
        samplers[f"average, {name}"] = with_weights(net, averaged, chosen)
        samplers[f"last weights, {name}"] = with_weights(net, None, chosen)
    return Trained(net, done, done * batch, budget.used, samplers)
