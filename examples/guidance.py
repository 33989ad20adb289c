"""Sample digits by class, with classifier-free guidance of several scales.

Each row has one scale and the classes 0 to 9; the rows share their noise. Trains the digits model on the first run
(about a minute), then takes seconds.

    python examples/guidance.py --run runs/examples/digits --out runs/examples/guidance
"""

import argparse
from pathlib import Path

import torch

import fromnoise as fn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--out", type=Path, default=Path("runs/examples/guidance"), help="folder of the results")
args = parser.parse_args()

model = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded

scales = (0, 1, 2, 4)  # 0 ignores the class, 1 is the conditional model
rows = [model.sample(10, label=range(10), guidance=scale, seed=1) for scale in scales]
fn.save_images(torch.cat(rows), args.out / "scales.png", columns=10)

# guidance at medium noise levels alone keeps the variety of the samples (Kynkäänniemi et al. 2024)
threes = model.sample(20, label=3, guidance=3, interval=(0.2, 0.8))
fn.save_images(threes, args.out / "threes.png", columns=10)

for scale, row in zip(scales, rows, strict=True):
    print(f"guidance {scale}: mean brightness {row.float().mean():.0f}, contrast {row.float().std():.0f}")
