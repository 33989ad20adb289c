"""Train, save, resume when the program runs again, sample and evaluate: the shortest complete program.

docs/guide/comparison.md has the same program for a folder of images at 32x32 beside its counterparts in other
libraries. A minute on two CPU cores.

    python examples/train_and_evaluate.py --steps 600 --out runs/examples/train_and_evaluate
"""

import argparse

import fromnoise as fn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=600, help="training steps")
parser.add_argument("--samples", type=int, default=500, help="number of samples to evaluate")
parser.add_argument("--out", default="runs/examples/train_and_evaluate", help="run directory")
args = parser.parse_args()

images = fn.as_data("digits", size=8)
network = fn.networks.UNet(1, 1, size=(8, 8), width=32, multipliers=(1, 2))
denoiser = fn.Denoiser(network, fn.schedules.linear(1000), fn.targets.V())
trainer = fn.Trainer(denoiser, images, batch=64, lr=2e-3, steps=args.steps, train__clip=1.0, out=args.out)
samples = trainer.run().sample(args.samples, sampler="ddim", steps=50, seed=0)
print(fn.evaluate(samples, images, features="pixels"))
