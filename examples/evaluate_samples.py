"""Evaluate the samples of any program against real images: a folder, .zip, .npz, .npy or .parquet.

Without SAMPLES, samples of a Gaussian that was fitted to the digits are evaluated, as a folder of PNGs and as an array.
Each metric comes with its error and with its value for held-out real images. Half a minute on two CPU cores.

    python examples/evaluate_samples.py [SAMPLES [REAL]] --features classifier
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import fromnoise as fn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("samples", nargs="?", type=Path, help="file or folder of the samples")
parser.add_argument("real", nargs="?", default="digits", help="real images: a data set, folder or file")
parser.add_argument("--features", default="classifier", help="classifier, self-supervised, pixels, inception or dinov2")
parser.add_argument("--out", type=Path, default=Path("runs/examples/evaluate_samples"), help="folder of the results")
args = parser.parse_args()

data = fn.as_data(args.real)
paths = [args.samples]
if args.samples is None:
    # stands for another program: a Gaussian with the mean and covariance of the training images
    real = data.train.get(torch.arange(len(data.train))).flatten(1).numpy()
    normal = np.random.default_rng(0).multivariate_normal(real.mean(0), np.cov(real.T), size=500)
    images = normal.clip(0, 255).round().astype(np.uint8).reshape(-1, *data.shape)
    paths = [args.out / "samples", args.out / "samples.npy"]
    fn.save_images(torch.from_numpy(images), paths[0])
    np.save(paths[1], images)
    fn.save_images(torch.from_numpy(images[:64]), args.out / "samples.png")

for path in paths:
    result = fn.evaluate(path, data, features=args.features)
    print(f"{path}\n{result}\n")
    print(f"Frechet distance alone: {result['frechet'].samples.value:.4g}\n")
