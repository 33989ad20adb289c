"""azula: its tutorial."""

from __future__ import annotations

from typing import Any

import torch
from foreign import foreign
from torch import Tensor, nn

from peers.common import Budget, Sampler, Task, Trained, with_weights


class AzulaNetwork(nn.Module):
    """The U-Net of azula's tutorial with its embeddings of noise level and class."""

    def __init__(self, unet: nn.Module, features: int = 64) -> None:
        super().__init__()
        self.unet, self.labels = unet, nn.Embedding(10, features)
        self.time = nn.Sequential(nn.Linear(1, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, x: Tensor, log_noise: Tensor, label: Tensor) -> Tensor:
        """Clean images, scaled."""
        return self.unet(x, self.labels(label) + self.time(log_noise[..., None]))


def azula(task: Task, budget: Budget, bf16: bool) -> Trained:
    """The tutorial docs/tutorials/mnist.ipynb, by class; it offers no other precision than float32."""
    denoise, unet, noise, sample = (foreign(f"azula.{n}") for n in ("denoise", "nn.unet", "noise", "sample"))
    channels, batch = task.shape[0], 64
    blocks = unet.UNet(channels, channels, hid_channels=[16, 32, 64], hid_blocks=[2, 2, 2], mod_features=64)
    denoiser = denoise.KarrasDenoiser(AzulaNetwork(blocks), noise.VPSchedule())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-4)
    done, batches = 0, task.batches(batch)
    while budget.left():
        x, label = next(batches)
        denoiser.loss(x, torch.rand(len(x)), label=label).backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1

    def sampler(kind: Any, steps: int) -> Sampler:
        def draw(count: int) -> Tensor:
            chosen = kind(denoiser, steps=steps, silent=True)
            return chosen(chosen.init((count, *task.shape)), label=torch.randint(0, 10, (count,)))

        return draw

    samplers = {
        "last weights, DDIM, 64 steps": with_weights(denoiser, None, sampler(sample.DDIMSampler, 64)),
        "last weights, exponential Adams-Bashforth (x), 32 steps": with_weights(
            denoiser, None, sampler(sample.xEABSampler, 32)
        ),
        "last weights, DDPM, 64 steps": with_weights(denoiser, None, sampler(sample.DDPMSampler, 64)),
    }
    return Trained(denoiser, done, done * batch, budget.used, samplers)
