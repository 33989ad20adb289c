"""``fromnoise cluster``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.cli.common import check_minimum, write_json

if TYPE_CHECKING:
    from fromnoise.clustering.fit import ClusteringResult
    from fromnoise.config import Recipe

HELP = "cluster images, and train a generator of each cluster"
EPILOG = """The same command again resumes a run. Every recipe key is a flag, --section.key value; the keys of this verb
are in [clustering]. -q 5:20 trains a model for each number of clusters and selects one by its bound on held-out images.

examples:
  fromnoise cluster mnist -q 10 -n 10000 --minutes 25
  fromnoise cluster ~/pictures -q 5:20 --minutes 10
  fromnoise cluster ~/pictures -q 8 --features dino.npy --given known.csv
  fromnoise sample runs/clusters --label 3 --out third.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("data", metavar="SPEC", help="images: a named set, hub:owner/name, a folder or a file, as for train")
    add("-q", dest="count", metavar="Q", required=True, help="number of clusters; A:B or A:B:STEP tries several")
    add("-n", dest="limit", metavar="N", type=int, help="number of images to cluster; default: all")
    budget = parser.add_mutually_exclusive_group().add_argument
    budget("--minutes", metavar="M", help="training budget in minutes, for each number of clusters")
    budget("--steps", metavar="N", help="training budget in optimizer steps")
    add("--given", metavar="CSV", type=Path, help="known labels of some images, kept fixed: columns index and label")
    add("--features", metavar="FILE", type=Path, help="start from your own features of the images: a row for each")
    add("--out", metavar="DIR", type=Path, default=Path("runs/clusters"), help="run directory")
    add("--recipe", metavar="RECIPE", default="mixture", help="name of a recipe, or a .toml file")
    add("--seed", metavar="S", help="seed of the weights, the order of the images and the noise")
    add("--json", metavar="FILE", type=Path, help="write the results as JSON")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    add("--dry-run", action="store_true", help="print the resolved recipe and an estimate of its cost, and exit")


def run(args: argparse.Namespace) -> int:
    """Cluster, and write the results."""
    from fromnoise.cli import parsing
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.limit, 2))
    counts = parsing.parse_range("-q", args.count, 2)
    if args.json is not None:
        check_file(args.json, ".json")
    if args.given is not None and not args.given.is_file():
        raise UserError(f"{str(args.given)!r} does not exist: --given takes a .csv with the columns index and label")
    if args.features is not None and not args.features.is_file():
        raise UserError(f"{str(args.features)!r} does not exist: --features takes a .npy, .npz, .parquet or .csv file")
    if args.dry_run:
        return _dry_run(args, counts[-1])
    if len(counts) == 1:
        result = _fit(args, counts[0], args.out)
        code = _write(args, result, args.out)
        if args.json and not code:
            write_json(args.json, _results(result))
        return code
    return _select_count(args, counts)


def _recipe(args: argparse.Namespace, count: int) -> Recipe:
    from fromnoise import config as recipes
    from fromnoise.cli.parsing import parse_value
    from fromnoise.cli.train import dotted_values

    flags = {"minutes": "train.minutes", "steps": "train.steps", "seed": "train.seed"}
    keys = {key: parse_value(getattr(args, flag)) for flag, key in flags.items() if getattr(args, flag) is not None}
    keys |= {"data.source": args.data, "clustering.count": count, "data.labels": True}
    keys |= {"clustering.images": args.limit} if args.limit is not None else {}
    if args.features is not None:
        keys |= {"clustering.init": "features", "clustering.features": str(args.features)}
    keys |= dotted_values(args.dotted)
    return recipes.load(args.recipe, keys)


def _fit(args: argparse.Namespace, count: int, out: Path) -> ClusteringResult:
    from fromnoise.clustering.fit import fit_mixture

    recipe = _recipe(args, count)
    return fit_mixture(recipe, out, given=args.given, device=args.device, precision=args.precision)


def _dry_run(args: argparse.Namespace, count: int) -> int:
    """Print the recipe and the forecast of a number of clusters; nothing is written."""
    import sys

    from fromnoise.clustering.dry_run import dry_run
    from fromnoise.config import to_toml
    from fromnoise.utils.device import select_device

    compute, recipe = select_device(args.device, args.precision), _recipe(args, count)
    expected = dry_run(recipe, compute, lambda line: print(f"# {line}", file=sys.stderr))
    print(to_toml(expected.recipe))
    for line in expected.lines:
        print(f"# {line}")
    return 0


def _write(args: argparse.Namespace, result: ClusteringResult, out: Path) -> int:
    from fromnoise.clustering.summary import write_summary

    if result.signal:
        return 128 + result.signal
    dotted = (word for key, text in args.dotted.items() for word in (f"--{key}", text))
    for path in write_summary(result, out, shlex.join(["fromnoise", *args.words, *dotted])):
        print(path)
    results = _results(result)
    for name, scores in results.get("scores", {}).items():
        print(f"{name:7} " + ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items()))
    print(f"samples of a cluster: fromnoise sample {out} --label 0 --out samples.png")
    return 0


def _results(result: ClusteringResult) -> dict[str, Any]:
    from fromnoise.clustering.scores import ClusterScores

    results: dict[str, Any] = {"images": len(result.q), "clusters": result.q.shape[1], "rounds": result.rounds}
    labels = result.task.labels
    if labels is not None:
        clusters = {"initial": result.initial, "em": result.q.argmax(1)}
        results["scores"] = {name: ClusterScores.from_labels(c, labels).__dict__ for name, c in clusters.items()}
    return results


def _select_count(args: argparse.Namespace, counts: list[int]) -> int:
    """Train a model for each number of clusters in its own directory, and select one."""
    from fromnoise.clustering.model_selection import held_out_bounds, select_count
    from fromnoise.evaluation.estimate import Estimate

    bounds, found = {}, {}
    for count in counts:
        out = args.out / f"q{count:02d}"
        result = _fit(args, count, out)
        code = _write(args, result, out)
        if code:
            return code
        bounds[count] = held_out_bounds(result)
        mean = Estimate.mean_of(bounds[count])
        found[str(count)] = {"held_out_bound": mean.json()} | _results(result)
        print(f"{count} clusters: held-out bound {mean} nats per image, {mean.n} images")
    count = select_count(bounds)
    if args.json:
        write_json(args.json, {"selected": count, "counts": found})
    print(f"selected {count} clusters, the fewest within one standard error of the best: {args.out / f'q{count:02d}'}")
    return 0
