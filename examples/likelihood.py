"""Measure the likelihood of images in bits per dimension: of held-out digits, training digits, and digits upside down.

Lower is better; digits upside down are unlikely under the model. Trains the digits model on the first run (about a
minute), then takes half a minute.

    python examples/likelihood.py --run runs/examples/digits --images 90
"""

import argparse

import fromnoise as fn
from fromnoise.diffusion.likelihood.ode import RungeKutta
from fromnoise.evaluation.likelihood import LikelihoodEvaluator, random_subset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", default="runs/examples/digits", help="run directory of the digits model")
parser.add_argument("--steps", type=int, default=500, help="training steps of the digits model")
parser.add_argument("--images", type=int, default=90, help="number of images of each kind")
args = parser.parse_args()

pipeline = fn.Trainer("digits", data__labels=True, steps=args.steps, out=args.run).run()  # a finished run is loaded
model, data = pipeline.model, fn.as_data("digits")
held_out, labels = random_subset(data.held_out, model, args.images)
training, training_labels = random_subset(data.train, model, args.images)

evaluator = LikelihoodEvaluator(model, pipeline.compute)
for name, pixels, classes in (
    ("held-out", held_out, labels),
    ("training", training, training_labels),
    ("upside down", held_out.flip(2), labels),
):
    bits = evaluator.bound(pixels, classes, sampled_steps=32).each  # the variational bound (ELBO) of each image
    error = bits.std() / len(bits) ** 0.5
    print(f"{name}: {bits.mean():.3f} +- {error:.3f} bits/dim by the bound")

flow = evaluator.flow(*random_subset(data.held_out, model, 16), RungeKutta(20))  # the probability-flow ODE
print(f"held-out: {flow.mean():.3f} +- {flow.std() / len(flow) ** 0.5:.3f} bits/dim by the flow ({len(flow)} images)")
