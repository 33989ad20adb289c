"""Write the training loop yourself: ``denoiser.loss``, a torch optimizer, and an average of the weights.

``seed`` and ``positions`` determine the time and the noise of every image, so the run can be repeated exactly.
A minute on two CPU cores.

    python examples/own_training_loop.py --steps 600 --out runs/examples/own_training_loop
"""

import argparse
import copy
from pathlib import Path

import torch

import fromnoise as fn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=600, help="training steps")
parser.add_argument("--batch", type=int, default=64, help="images per step")
parser.add_argument("--out", type=Path, default=Path("runs/examples/own_training_loop"), help="folder of the results")
args = parser.parse_args()

torch.manual_seed(0)
data = fn.as_data("digits")
images = fn.data.to_float(data.train.get(torch.arange(len(data.train))))  # (N, 1, 8, 8) in [-1, 1]

network = fn.networks.UNet(1, 1, size=(8, 8), width=32, multipliers=(1, 2), blocks=1)
denoiser = fn.Denoiser(network, schedule=fn.schedules.cosine(1000), target=fn.targets.V())
averaged = copy.deepcopy(denoiser)  # for an exponential moving average (EMA) of the weights
optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)

for step in range(args.steps):
    x0 = images[torch.randint(len(images), (args.batch,))]
    positions = range(step * args.batch, (step + 1) * args.batch)
    loss = denoiser.loss(x0, seed=0, positions=positions, time_sampler=fn.time_samplers.Stratified()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    for average, parameter in zip(averaged.parameters(), denoiser.parameters(), strict=True):
        average.data.lerp_(parameter.data, 0.01)
    if step % 100 == 0 or step == args.steps - 1:
        print(f"step {step}: loss {loss.item():.3f}")

model = fn.Pipeline(averaged, shape=data.shape)
fn.save(model, args.out / "model.safetensors")  # fn.load(..., network=...) reads it
fn.save_images(model.sample(64), args.out / "samples.png")
