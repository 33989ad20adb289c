"""``fromnoise bits``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli.common import check_minimum, load_model_data, write_json

if TYPE_CHECKING:
    from fromnoise.data import Images
    from fromnoise.evaluation.likelihood import Measure, Piece
    from fromnoise.evaluation.metrics.frechet import Estimate

HELP = "measure how many bits a dimension a model needs to tell images"
EPILOG = """by the variational bound, from a sample of its steps, and by the probability flow; lower is better. Both are
upper bounds on -log2 p(image). Held-out images give the honest figure; training images that cost clearly less were
memorised.

examples:
  fromnoise bits runs/digits
  fromnoise bits runs/mnist --data mnist -n 1000 --json bits.json --plot bits.png
  fromnoise bits runs/mnist -n 64 --visits all --flow 0     every step of the bound, no flow"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("--data", metavar="SPEC", help="images to tell; those of the model's recipe if left out")
    add("-n", dest="count", metavar="N", type=int, default=256, help="images of each piece, by the bound")
    add("--visits", metavar="S", default="32", help="steps of the bound an image, or all")
    add("--flow", metavar="N", type=int, default=64, help="images of each piece by the flow; 0 leaves it out")
    add("--flow-steps", metavar="K", type=int, default=25, help="Runge-Kutta steps of the flow, 4 evaluations each")
    add("--tolerance", metavar="E", type=float, help="solve the flow adaptively to this tolerance instead")
    add("--probes", metavar="P", type=int, default=1, help="random signs that estimate a trace")
    add("--plot", metavar="PNG", type=Path, help="bits by step")
    add("--json", metavar="FILE", type=Path, help="the results for programs")
    add("--seed", metavar="S", type=int, default=0, help="which images and noise")
    add("--batch", metavar="B", type=int, default=64, help="images at a time")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="fp32", help="fp32, bf16 or auto; less than fp32 spoils the flow")


def run(args: argparse.Namespace) -> int:
    """Measure."""
    from fromnoise.utils.errors import UserError

    check_minimum(("-n", args.count, 2), ("--flow", args.flow, 0), ("--flow-steps", args.flow_steps, 1))
    check_minimum(("--probes", args.probes, 1), ("--batch", args.batch, 1))
    if args.visits != "all" and not (args.visits.isdecimal() and int(args.visits) > 0):
        raise UserError(f"--visits {args.visits} is no number of steps: take 1 or more, or all")
    if args.tolerance is not None and not 0 < args.tolerance < 1:
        raise UserError(f"--tolerance {args.tolerance:g} must lie between 0 and 1, such as 1e-4")
    from fromnoise.checkpoint import load_model
    from fromnoise.evaluation.likelihood import Measure
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    for path, ending in ((args.plot, ".png"), (args.json, ".json")):
        if path is not None:
            check_file(path, ending)
    model = load_model(args.model).model
    compute = select_device(args.device, args.precision)
    data = load_model_data(model, args.data, print)
    compute.to_device(model.denoiser)
    measure = Measure(model, compute, args.seed, args.batch)
    pieces: dict[str, Images] = {"held out": data.held_out}
    if data.fingerprint == model.dataset_info.fingerprint:
        pieces["training"] = data.train
    else:
        print("these are not the images that the model was trained on: no training piece")
    results = {name: _piece(measure, images, args, name) for name, images in pieces.items()}
    _report(results, args)
    return 0


def _piece(measure: Measure, images: Images, args: argparse.Namespace, name: str) -> Piece:
    """Bound and flow of some images."""
    from tqdm import tqdm

    from fromnoise.diffusion.likelihood.ode import RungeKutta, ScipySolver
    from fromnoise.evaluation.likelihood import Piece, some

    pixels, labels = some(images, measure.model, args.count, args.seed)
    count = len(pixels)
    visits = None if args.visits == "all" else int(args.visits)
    with tqdm(total=count, unit="image", desc=f"{name}, bound") as bar:
        bound = measure.bound(pixels, labels, visits, bar.update)
    few = min(args.flow, count)
    if few < 2:
        return Piece(bound, None)
    solver = RungeKutta(args.flow_steps) if args.tolerance is None else ScipySolver(args.tolerance)
    with tqdm(total=few, unit="image", desc=f"{name}, flow") as bar:
        flow = measure.flow(pixels[:few], labels[:few] if labels is not None else None, solver, args.probes, bar.update)
    return Piece(bound, flow)


def _report(results: dict[str, Piece], args: argparse.Namespace) -> None:
    from fromnoise.evaluation.likelihood import gaps
    from fromnoise.reporting import plots

    print("bits/dim, +- one standard error of the mean over the images")
    for name, piece in results.items():
        for way, estimate in piece.estimates().items():
            print(f"  {name:9} {way:6} {_shown(estimate)}")
        print(f"  {name:9} the bound is " + " + ".join(f"{part} {bits:.4f}" for part, bits in piece.parts().items()))
        lost = piece.lost()
        if lost is not None:
            print(f"  {name:9} bound - flow of the same images {_shown(lost)}")
    out = results["held out"].json()
    if "training" in results:
        apart = gaps(results["held out"], results["training"])
        for way, gap in apart.items():
            verdict = "training images cost less" if gap.value > 2 * gap.error else "no sign of memorisation"
            print(f"  held out - training, by the {way}: {gap.value:+.4f} +- {gap.error:.4f}: {verdict}")
        out |= {"train": results["training"].json(), "gap": {way: gap.json() for way, gap in apart.items()}}
    if args.json:
        write_json(args.json, out)
        print(args.json)
    if args.plot:
        plots.bits_plot({name: piece.bound.by_step for name, piece in results.items()}, args.plot)
        print(args.plot)


def _shown(e: Estimate) -> str:
    return f"{e.value:.4f} +- {e.error:.4f} (n = {e.n})"
