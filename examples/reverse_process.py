"""Watch the reverse process: the sampling loop is a generator that yields every step.

Writes an animation of x_t, and the estimates of x_0 on the way as columns of a strip. Trains the digits model on the
first run (about a minute), then takes seconds.

    python examples/reverse_process.py --run runs/examples/digits --out runs/examples/reverse_process
"""

import argparse
from pathlib import Path

import fromnoise as fn
from fromnoise.reporting import image_io

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--out", type=Path, default=Path("runs/examples/reverse_process"), help="folder of the results")
args = parser.parse_args()

model = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded

noisy, estimates, times = [], [], []
for step in model.steps(10, sampler="ddim", steps=40, label=range(10), guidance=2):
    noisy.append(step.images)  # x_s as uint8
    estimates.append(step.x0)  # the estimate of x_0 that led there
    times.append(step.t)
    if step.step.index % 10 == 0:
        print(f"t = {step.t:.3f}, log-SNR {float(step.step.level_s.logsnr):.1f}")

args.out.mkdir(parents=True, exist_ok=True)
image_io.save_gif(noisy, args.out / "noisy.gif", columns=5)
image_io.save(image_io.reverse_strip(estimates, times, columns=8), args.out / "estimates.png")
fn.save_images(noisy[-1], args.out / "samples.png", columns=5)
