"""Train a network of your own: any ``nn.Module`` that is called as ``network(x, t, cond)``.

A minute on two CPU cores. A file never names code to import, so ``load`` gets a new instance of the network.

    python examples/own_network.py --out runs/examples/own_network
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import fromnoise as fn


class ResNet(nn.Module):
    """Residual convolutions at full resolution; the timestep scales and shifts the features of each block."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.frequencies = torch.exp(-torch.linspace(0, math.log(1000), 32))
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, 2 * width * blocks))
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(blocks))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1 + i % 2, dilation=1 + i % 2) for i in range(blocks)
        )
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """The estimate of the target: x (B, 1, H, W), t (B,) from 0 to 999."""
        phase = t[:, None] * self.frequencies.to(t)
        embedding = self.time(torch.cat([phase.sin(), phase.cos()], dim=1))[:, :, None, None]
        h = self.first(x)
        modulations = embedding.chunk(len(self.norms), dim=1)
        for norm, convolution, modulation in zip(self.norms, self.convolutions, modulations, strict=True):
            scale, shift = modulation.chunk(2, dim=1)
            h = h + convolution(nn.functional.silu(norm(h) * (1 + scale) + shift))
        return self.last(h)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=1_000, help="training steps")
parser.add_argument("--out", type=Path, default=Path("runs/examples/own_network"), help="folder of the results")
args = parser.parse_args()

denoiser = fn.Denoiser(ResNet(), schedule=fn.schedules.cosine(1000), target=fn.targets.V())
for report in fn.Trainer(denoiser, "digits", batch=64, lr=2e-3, steps=args.steps, out=args.out / "run"):
    if report.step % 100 == 0:
        print(f"step {report.step:,}: loss {report.loss:.3f}")

model = fn.load(args.out / "run", network=ResNet())
fn.save_images(model.sample(64), args.out / "samples.png")
