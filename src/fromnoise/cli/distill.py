"""``fromnoise distill``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.cli.parsing import parse_value

if TYPE_CHECKING:
    from fromnoise.config import Recipe

HELP = "distill a run to a model that samples in 1, 2 or 4 evaluations; run the same command again to resume"
EPILOG = """examples:
  fromnoise train fast --data fashion_mnist --minutes 10 --out runs/fashion
  fromnoise distill runs/fashion --steps 2
  fromnoise sample runs/fashion-2-steps -n 100 --out more.png

the result is a run like any other: previews, reports and states are those of fromnoise train, and every key of its
recipe can be set as --section.key value (--train.steps N for a budget in optimizer steps). At the end it is compared
with its base. What needs a denoiser is left to the base: fromnoise bits, guidance, inverse problems"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name: the base")
    add("--steps", metavar="K", type=int, default=2, help="evaluations of a sample: 1, 2 or 4 (default: 2)")
    add("--out", metavar="DIR", type=Path, help="run directory of the result (default: RUN-K-steps)")
    add("--minutes", metavar="M", help="budget in minutes (default: 10)")
    add("--data", metavar="SPEC", help="training images; those of the run by default")
    add("--seed", metavar="S", help="seed of the order of the data and the noise")
    add(
        "-n",
        dest="count",
        metavar="N",
        type=int,
        default=1000,
        help="samples of each model whose distances to real images are compared at the end; 0 for none",
    )
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    add("--compile", action="store_true", help="compile the network with torch.compile: slow to start, faster on GPUs")


def run(args: argparse.Namespace) -> int:
    """Train, then compare with the base."""
    from fromnoise.cli.common import check_minimum
    from fromnoise.training.distillation import distillation_recipe
    from fromnoise.training.run import train

    check_minimum(("-n", args.count or None, 10))
    recipe = distillation_recipe(args.model, args.steps, overrides(args))
    out = args.out or default_folder(args.model, args.steps)
    result = train(recipe, out, device=args.device, precision=args.precision, compiled=args.compile)
    if result.signal:
        return 128 + result.signal
    if args.count:
        _compare(args, out, recipe)
    return 0


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Values by dotted key, from the flags and from ``--section.key value``."""
    from fromnoise.cli.train import dotted_values

    named = {"data": "data.source", "seed": "train.seed", "minutes": "train.minutes"}
    found = {key: parse_value(getattr(args, flag)) for flag, key in named.items() if getattr(args, flag) is not None}
    if "data.source" in found:
        found["data.source"] = args.data
    return found | dotted_values(args.dotted)


def default_folder(run: str, steps: int) -> Path:
    """The run directory beside the base, ``RUN-2-steps``; in ``runs`` for a model of the hub."""
    from fromnoise.utils.hub import HubName, is_hub

    if is_hub(run):
        base = Path("runs") / HubName.parse(run).repository.rpartition("/")[2]
    else:
        path = Path(run).resolve()
        base = path.parent if path.name == "model.safetensors" else path
        if base.suffix == ".safetensors":
            base = base.with_suffix("")
    named = base.with_name(f"{base.name}-{steps}-step{'s' if steps > 1 else ''}")
    return named.relative_to(Path.cwd()) if named.is_relative_to(Path.cwd()) else named


def _compare(args: argparse.Namespace, out: Path, recipe: Recipe) -> None:
    """Print and write the distances of both models to the training images."""
    import sys

    from fromnoise.cli.common import write_json
    from fromnoise.config.recipe_data import open_data
    from fromnoise.evaluation.distilled import compare_with_base
    from fromnoise.utils.device import select_device

    def log(line: str) -> None:
        print(line, file=sys.stderr)

    compute = select_device(args.device, args.precision)
    found = compare_with_base(out, open_data(recipe, log), compute, args.count, log)
    for line in found.lines():
        print(line)
    write_json(out / "distillation.json", found.json())
    print(out / "distillation.json")
