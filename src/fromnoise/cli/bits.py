"""``fromnoise bits``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.cli.common import check_minimum, write_json

if TYPE_CHECKING:
    from fromnoise.data import Data, Images
    from fromnoise.evaluation.estimate import Estimate
    from fromnoise.evaluation.likelihood import LikelihoodEvaluator
    from fromnoise.evaluation.likelihood_results import LikelihoodResult
    from fromnoise.model import AutoencoderModel, Model
    from fromnoise.utils.device import ComputeConfig

HELP = "measure the negative log-likelihood of images under a model, in bits/dim"
EPILOG = """Two methods: the variational bound (ELBO) from sampled steps, and the probability-flow ODE ("flow").
Lower is better. Both are upper bounds on -log2 p(image) per dimension. Report the value of held-out images; if training
images need clearly fewer bits, the model has memorized them.

examples:
  fromnoise bits runs/digits
  fromnoise bits runs/mnist --data mnist -n 1000 --json bits.json --plot bits.png
  fromnoise bits runs/mnist -n 64 --bound-steps all --flow 0     every step of the bound, no flow"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("--data", metavar="SPEC", help="images; those of the model's recipe by default")
    add("-n", dest="count", metavar="N", type=int, default=256, help="held-out and training images for the bound")
    add("--bound-steps", metavar="S", default="32", help="sampled steps of the bound per image, or all")
    add("--flow", metavar="N", type=int, default=64, help="held-out and training images for the flow; 0 for none")
    add("--flow-steps", metavar="K", type=int, default=25, help="Runge-Kutta steps, 4 network evaluations each")
    add("--tolerance", metavar="E", type=float, help="use an adaptive ODE solver with this tolerance instead")
    add("--probes", metavar="P", type=int, default=1, help="random sign vectors for each trace estimate")
    add("--plot", metavar="PNG", type=Path, help="plot the terms of the bound by step")
    add("--json", metavar="FILE", type=Path, help="write the results as JSON")
    add("--seed", metavar="S", type=int, default=0, help="seed of the choice of images and of the noise")
    add("--batch", metavar="B", type=int, default=64, help="images per batch")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="fp32", help="fp32, bf16 or auto; the flow needs fp32")


def run(args: argparse.Namespace) -> int:
    """Measure, and print the results."""
    from fromnoise.utils.errors import UserError

    check_minimum(("-n", args.count, 2), ("--flow", args.flow, 0), ("--flow-steps", args.flow_steps, 1))
    check_minimum(("--probes", args.probes, 1), ("--batch", args.batch, 1))
    if args.bound_steps != "all" and not (args.bound_steps.isdecimal() and int(args.bound_steps) > 0):
        raise UserError(f"--bound-steps {args.bound_steps} is not a number of steps: use 1 or more, or all")
    if args.tolerance is not None and not 0 < args.tolerance < 1:
        raise UserError(f"--tolerance {args.tolerance:g} must be between 0 and 1, such as 1e-4")
    from fromnoise.checkpoint import load_trainable
    from fromnoise.evaluation.likelihood import LikelihoodEvaluator
    from fromnoise.evaluation.resolve import load_model_data
    from fromnoise.model import AutoencoderModel
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    for path, ending in ((args.plot, ".png"), (args.json, ".json")):
        if path is not None:
            check_file(path, ending)
    model = load_trainable(args.model).model
    compute = select_device(args.device, args.precision)
    data = load_model_data(model, args.data, print)
    compute.to_device(model.module)
    if isinstance(model, AutoencoderModel):
        return _report_autoencoder(model, data, compute, args)
    evaluator = LikelihoodEvaluator(model, compute, args.seed, args.batch)
    results = {name: _measure(evaluator, images, args, name) for name, images in _parts(model, data).items()}
    _report(results, evaluator.description(), args)
    return 0


def _report_autoencoder(model: AutoencoderModel, data: Data, compute: ComputeConfig, args: argparse.Namespace) -> int:
    """Print the bound of a variational autoencoder, or of an autoencoder as if its prior were N(0, I)."""
    from fromnoise.evaluation.autoencoder_bits import vae_bound
    from fromnoise.evaluation.estimate import Estimate
    from fromnoise.evaluation.likelihood import random_subset

    measured = "variational bound: -log2 p(x | z) of the decoder, and KL(q(z | x) || N(0, I))"
    print("bits/dim +- one standard error of the mean, over images and latents")
    print(f"  {measured}")
    out: dict[str, Any] = {}
    for name, images in _parts(model, data).items():
        pixels, _ = random_subset(images, model, args.count, args.seed)
        found = vae_bound(model, compute, pixels, args.seed, args.batch)
        estimate = Estimate.mean_of(found.each)
        print(f"  {name:9} bound  {_formatted(estimate)}")
        print(f"  {name:9} bound = {' + '.join(f'{part} {bits:.4f}' for part, bits in found.parts.items())}")
        out["train" if name == "training" else name] = {
            "bound": estimate.json(),
            "flow": None,
            "parts": found.parts,
        }
    if args.json is not None:
        held_out = out.pop("held out") | {"measured": [measured], "error_over": "images and latents"}
        write_json(args.json, held_out | out)
        print(args.json)
    if args.plot is not None:
        print(f"an autoencoder has no steps to plot: {args.plot} was not written")
    return 0


def _parts(model: Model | AutoencoderModel, data: Data) -> dict[str, Images]:
    """Held-out images, and training images if the model was trained on these data."""
    trained_on = model.dataset_info.fingerprint
    if data.fingerprint == trained_on:
        return {"held out": data.held_out, "training": data.train}
    if trained_on:
        print("the model was trained on other images than these: training images are not measured")
    else:
        print("the model does not record its training data: training images are not measured")
    return {"held out": data.held_out}


def _measure(evaluator: LikelihoodEvaluator, images: Images, args: argparse.Namespace, name: str) -> LikelihoodResult:
    """Bound and flow of some images."""
    from tqdm import tqdm

    from fromnoise.diffusion.likelihood.ode import RungeKutta, ScipySolver
    from fromnoise.evaluation.likelihood import random_subset
    from fromnoise.evaluation.likelihood_results import LikelihoodResult

    pixels, labels = random_subset(images, evaluator.model, args.count, args.seed)
    count = len(pixels)
    steps = None if args.bound_steps == "all" else int(args.bound_steps)
    with tqdm(total=count, unit="image", desc=f"{name}, bound") as bar:
        bound = evaluator.bound(pixels, labels, steps, bar.update)
    few = min(args.flow, count)
    if few < 2:
        return LikelihoodResult(bound, None)
    solver = RungeKutta(args.flow_steps) if args.tolerance is None else ScipySolver(args.tolerance)
    cond = labels[:few] if labels is not None else None
    with tqdm(total=few, unit="image", desc=f"{name}, flow") as bar:
        flow = evaluator.flow(pixels[:few], cond, solver, args.probes, bar.update)
    return LikelihoodResult(bound, flow)


def _report(results: dict[str, LikelihoodResult], description: list[str], args: argparse.Namespace) -> None:
    from fromnoise.evaluation.likelihood_results import generalization_gaps
    from fromnoise.reporting import plots

    print("bits/dim +- one standard error of the mean, over images and noise")
    for line in description:
        print(f"  {line}")
    for name, result in results.items():
        for method, estimate in result.estimates().items():
            print(f"  {name:9} {method:6} {_formatted(estimate)}")
        parts = " + ".join(f"{part} {bits:.4f}" for part, bits in result.bound_parts().items())
        print(f"  {name:9} bound = {parts}")
        difference = result.bound_minus_flow()
        if difference is not None:
            print(f"  {name:9} bound - flow of the same images {_formatted(difference)}")
    out = results["held out"].json() | {"measured": description, "error_over": "images and noise"}
    if "training" in results:
        gaps = generalization_gaps(results["held out"], results["training"])
        for method, gap in gaps.items():
            significant = gap.value > 2 * gap.error
            meaning = "training images need fewer bits" if significant else "no significant difference at this n"
            print(f"  held out - training, {method}: {_formatted(gap)}: {meaning}")
        out |= {"train": results["training"].json(), "gap": {method: gap.json() for method, gap in gaps.items()}}
    if args.json:
        write_json(args.json, out)
        print(args.json)
    if args.plot:
        plots.bound_terms_plot({name: result.bound.by_step for name, result in results.items()}, args.plot)
        print(args.plot)


def _formatted(e: Estimate) -> str:
    return f"{e.value:.4f} +- {e.error:.4f} (n = {e.n})"
