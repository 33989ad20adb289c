"""``fromnoise assign``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli.common import check_minimum, load_model_data, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.clustering.results import Assignments

HELP = "say to which cluster, or class, of a model new images belong"
EPILOG = """by the model's own bound under each cluster. A model that was trained with labels is told its classes: it is
then the diffusion classifier.

examples:
  fromnoise assign runs/clusters mnist:test --out test.csv
  fromnoise assign runs/fashion-labels fashion_mnist:test -n 500 --json accuracy.json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("data", metavar="SPEC", help="the images; SPEC:split picks a split")
    add("-n", dest="limit", metavar="N", type=int, help="so many of them, drawn by the seed; all if left out")
    add(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("assignments.csv"),
        help=".csv, or .parquet with every probability",
    )
    add("--first", metavar="S", type=int, help="steps at which all are compared; the recipe's if left out")
    add("--then", metavar="S", type=int, help="steps more at which the likely ones are")
    add("--keep", metavar="K", type=int, help="how many are likely")
    add("--json", metavar="FILE", type=Path, help="scores and cost for programs")
    add("--seed", metavar="S", type=int, default=0, help="of the images drawn and of the noise")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Assign."""
    from fromnoise.utils.errors import UserError

    check_minimum(("-n", args.limit, 1), ("--first", args.first, 1), ("--then", args.then, 0), ("--keep", args.keep, 1))
    if args.out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{args.out} would not be what its name says: take a name that ends in .csv or .parquet")
    import time

    from tqdm import tqdm

    from fromnoise.checkpoint import load_model
    from fromnoise.clustering.assign import assign, search_of
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_file(args.out)
    if args.json is not None:
        check_file(args.json, ".json")
    loaded = load_model(args.model)
    if loaded.model.dataset_info.class_names is None:
        raise UserError(f"{args.model} was told no clusters nor classes: fromnoise cluster makes a model that is")
    search = search_of(loaded.model, args.first, args.then, args.keep)
    compute = select_device(args.device, args.precision)
    compute.to_device(loaded.model.denoiser)
    data = load_model_data(loaded.model, args.data, print)
    begun = time.perf_counter()
    with tqdm(unit="image") as bar:
        table = assign(loaded, data, compute, search, args.limit, args.seed, bar.update)
    spent = time.perf_counter() - begun
    table.write(args.out)
    count = len(table.index)
    forwards = search.forwards(len(table.names))
    print(f"{count:,} images, {forwards} evaluations and {spent / count:.3g} s each: {args.out}")
    found = _scores(table)
    for name, value in found.items():
        print(f"{name} {value:.4f}")
    if args.json:
        write_json(args.json, {"images": count, "forwards": forwards, "seconds": spent, **found})
    return 0


def _scores(table: Assignments) -> dict[str, float]:
    """Agreement with the labels; of classes of the same names, how many are right."""
    from fromnoise.clustering.scores import Scores

    if table.labels is None:
        return {}
    which: Tensor = table.q.argmax(1)
    if table.classes == table.names:
        return {"classifier accuracy": float((which == table.labels).double().mean())}
    return dict(Scores.of(which, table.labels).__dict__)
