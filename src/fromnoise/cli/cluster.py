"""``fromnoise cluster``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.cli.common import check_minimum, write_json

if TYPE_CHECKING:
    from fromnoise.clustering.fit import ClusteringResult

HELP = "sort images into clusters, and learn a generator for each"
EPILOG = """the same command again continues. Every key of a recipe can be set as --part.key value: see [cluster] in the
recipe mixture. -q 5:20 tries several numbers of clusters and keeps the one whose bound on held-out images is best.

examples:
  fromnoise cluster mnist -q 10 -n 10000 --minutes 25
  fromnoise cluster ~/pictures -q 5:20 --minutes 10
  fromnoise sample runs/clusters --label 3 --out third.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("data", metavar="SPEC", help="images: a named set, hub:owner/name, a folder or a file, as train takes them")
    add("-q", dest="count", metavar="Q", required=True, help="clusters; A:B or A:B:STEP tries several")
    add("-n", dest="limit", metavar="N", type=int, help="sort so many of the images; all if left out")
    budget = parser.add_mutually_exclusive_group().add_argument
    budget("--minutes", metavar="M", help="budget in minutes, for each number of clusters")
    budget("--steps", metavar="N", help="budget in optimiser steps")
    add("--given", metavar="CSV", type=Path, help="labels known of some images, which stay: columns index and label")
    add("--out", metavar="DIR", type=Path, default=Path("runs/clusters"), help="the run folder")
    add("--recipe", metavar="RECIPE", default="mixture", help="a name or a .toml file")
    add("--seed", metavar="S", help="of weights, order and noise")
    add("--json", metavar="FILE", type=Path, help="the results for programs")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Sort, and write what was found."""
    from fromnoise.cli import parsing
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.limit, 2))
    counts = parsing.parse_range("-q", args.count, 2)
    if args.json is not None:
        check_file(args.json, ".json")
    if args.given is not None and not args.given.is_file():
        raise UserError(f"there is no table {str(args.given)!r}: --given takes a .csv with the columns index and label")
    if len(counts) == 1:
        found = _sorted(args, counts[0], args.out)
        return _leave(args, found, args.out)
    return _choose(args, counts)


def _sorted(args: argparse.Namespace, count: int, out: Path) -> ClusteringResult:
    from fromnoise import config as recipes
    from fromnoise.cli.train import value
    from fromnoise.clustering.fit import sort

    named = {"minutes": "train.minutes", "steps": "train.steps", "seed": "train.seed"}
    asked = {key: value(getattr(args, flag)) for flag, key in named.items() if getattr(args, flag) is not None}
    asked |= {"data.source": args.data, "clustering.count": count, "data.labels": True}
    asked |= {key: value(text) for key, text in args.dotted.items()}
    recipe = recipes.load(args.recipe, asked)
    return sort(recipe, out, limit=args.limit, given=args.given, device=args.device, precision=args.precision)


def _leave(args: argparse.Namespace, found: ClusteringResult, out: Path) -> int:
    from fromnoise.clustering import results

    if found.signal:
        return 128 + found.signal
    keys = (word for key, text in args.dotted.items() for word in (f"--{key}", text))
    for path in results.leave(found, out, shlex.join(["fromnoise", *args.words, *keys])):
        print(path)
    results = _results(found)
    for name, scores in results.get("scores", {}).items():
        print(f"{name:6} " + ", ".join(f"{measure} {value:.4f}" for measure, value in scores.items()))
    print(f"pictures of a cluster: fromnoise sample {out} --label 0 --out pictures.png")
    if args.json:
        write_json(args.json, results)
    return 0


def _results(found: ClusteringResult) -> dict[str, Any]:
    from fromnoise.clustering.scores import Scores

    results: dict[str, Any] = {"images": len(found.q), "clusters": found.q.shape[1], "rounds": found.rounds}
    if found.task.labels is not None:
        sortings = {"start": found.start, "em": found.q.argmax(1)}
        results["scores"] = {name: Scores.of(s, found.task.labels).__dict__ for name, s in sortings.items()}
    return results


def _choose(args: argparse.Namespace, counts: list[int]) -> int:
    """Try each number of clusters in a folder of its own, and say which is best."""
    from fromnoise.clustering.model_selection import best, held_out

    tried = {}
    for count in counts:
        out = args.out / f"q{count:02d}"
        found = _sorted(args, count, out)
        code = _leave(args, found, out)
        if code:
            return code
        tried[count] = held_out(found)
        print(f"{count} clusters: {float(tried[count].mean()):.3f} nats an image held out")
    count = best(tried)
    print(f"the bound is best with {count} clusters: {args.out / f'q{count:02d}'}")
    return 0
