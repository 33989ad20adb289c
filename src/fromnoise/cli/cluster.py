"""``fromnoise cluster``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.cli.common import check_minimum, write_json

if TYPE_CHECKING:
    from fromnoise.clustering.count_selection import CountSelection
    from fromnoise.clustering.fit import ClusteringResult
    from fromnoise.clustering.init import InitialClusters
    from fromnoise.config import Recipe

_AUTO = "2:20"
HELP = "cluster images, and train a generator of each cluster"
EPILOG = """The same command again resumes a run. Every recipe key is a flag, --section.key value; the keys of this verb
are in [clustering]. -q 5:20 trains a model for up to six numbers of the range, -q 5:20:1 for each, and selects one by
its bound on held-out images.
-q auto chooses a number from 2 to 20 on features before anything is trained, and --criterion features one of a range:
on the features of --features, or on pixels, which say little of photographs.

examples:
  fromnoise cluster mnist -q 10 -n 10000 --minutes 25
  fromnoise cluster ~/pictures -q 5:20 --minutes 10
  fromnoise cluster ~/pictures -q 8 --features dino.npy --given known.csv
  fromnoise cluster ~/pictures -q auto --features dino.npy
  fromnoise cluster mnist -q 10 --features runs/mnist
  fromnoise sample runs/clusters --label 3 --out third.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("data", metavar="SPEC", help="images: a named set, hub:owner/name, a folder or a file, as for train")
    add(
        "-q",
        dest="count",
        metavar="Q",
        required=True,
        help="number of clusters; auto, A:B or A:B:STEP compares several",
    )
    add(
        "--criterion",
        choices=("bound", "features"),
        help="how a number of A:B is chosen: by a model for each (the default), or by the clusters of features",
    )
    add("-n", dest="limit", metavar="N", type=int, help="number of images to cluster; default: all")
    budget = parser.add_mutually_exclusive_group().add_argument
    budget("--minutes", metavar="M", help="training budget in minutes, for each number of clusters")
    budget("--steps", metavar="N", help="training budget in optimizer steps")
    add("--given", metavar="CSV", type=Path, help="known labels of some images, kept fixed: columns index and label")
    add(
        "--features",
        metavar="FILE|RUN",
        type=Path,
        help="start from your own features of the images, a row for each; or from activations of a diffusion run",
    )
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
    from fromnoise.run_dir import RunDir
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file

    check_minimum(("-n", args.limit, 2))
    by_features = args.count == "auto" or args.criterion == "features"
    counts = parsing.parse_range("-q", _AUTO if args.count == "auto" else args.count, 2, None if by_features else 5)
    if args.json is not None:
        check_file(args.json, ".json")
    if args.given is not None and not args.given.is_file():
        raise UserError(f"{str(args.given)!r} does not exist: --given takes a .csv with the columns index and label")
    if args.features is not None and not RunDir(args.out).has_states:
        _check_features(args.features)
    if args.count == "auto" and args.criterion == "bound":
        raise UserError("-q auto chooses by features: give a range with --criterion bound, such as -q 5:20")
    if by_features and not args.dry_run and RunDir(args.out).has_states:
        counts = [q for q in counts if q == RunDir(args.out).recipe().clustering.count] or counts  # as the run began
    selection, init = None, None
    if by_features and len(counts) > 1 and not (args.dry_run and args.features is None):  # no encoder for a dry run
        selection, init = _select_by_features(args, counts)
    if args.dry_run:
        return _dry_run(args, selection.count if selection else counts[-1])
    if selection is None and len(counts) > 1:
        return _select_by_bound(args, counts)
    result = _fit(args, selection.count if selection else counts[0], args.out, init)
    if result.signal:
        return 128 + result.signal
    found = _write(args, result, args.out)
    if selection is not None:
        found["count_selection"] = selection.json()
        write_json(args.out / "count_selection.json", selection.json())
    if args.json:
        write_json(args.json, found)
    return 0


def _check_features(path: Path) -> None:
    """Check that there is a file of features or a run.

    Raises:
        UserError: there is neither.
    """
    from fromnoise.clustering.embeddings import is_embeddings_file
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.hub import is_hub
    from fromnoise.utils.model_path import check_model_path

    if is_embeddings_file(path):
        if not path.is_file():
            raise UserError(f"{str(path)!r} does not exist: --features takes a .npy, .npz, .parquet or .csv file")
    elif not is_hub(path) and not (path / "model.safetensors").exists():
        check_model_path(path)


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


def _fit(args: argparse.Namespace, count: int, out: Path, init: InitialClusters | None = None) -> ClusteringResult:
    from fromnoise.clustering.fit import fit_mixture

    recipe = _recipe(args, count)
    return fit_mixture(recipe, out, given=args.given, init=init, device=args.device, precision=args.precision)


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


def _select_by_features(args: argparse.Namespace, counts: list[int]) -> tuple[CountSelection, InitialClusters | None]:
    """Choose a number of clusters before a model is trained, and print the criteria.

    Returns:
        The selection, and the initial clusters if the encoder was trained for it.
    """
    import sys

    from tqdm import tqdm

    from fromnoise.clustering.count_selection import select_count_of
    from fromnoise.clustering.init import clusters_of_features
    from fromnoise.clustering.task import prepare
    from fromnoise.utils.device import select_device

    recipe = _recipe(args, counts[0])
    task = prepare(recipe, lambda line: print(line, file=sys.stderr))
    if args.count == "auto":
        counts = [q for q in counts if 4 * q <= len(task.index)] or counts[:1]
    compute = select_device(args.device, args.precision)
    form = "{percentage:3.0f}% {bar:24} features"
    with tqdm(total=100.0, bar_format=form, mininterval=0.2 if sys.stderr.isatty() else 20.0, file=sys.stderr) as bar:
        found, features = select_count_of(task, recipe, counts, compute, lambda part: bar.update(100 * part - bar.n))
    mark = "# " if args.dry_run else ""
    for line in found.table():
        print(f"{mark}{line}")
    if features is None:
        return found, None
    return found, clusters_of_features(features, _recipe(args, found.count).clustering, recipe.train.seed)


def _write(args: argparse.Namespace, result: ClusteringResult, out: Path) -> dict[str, Any]:
    """Write the files of a finished run, print its scores, and return its results for a JSON file."""
    from fromnoise.clustering.agreement import json_of
    from fromnoise.clustering.summary import write_summary

    dotted = (word for key, text in args.dotted.items() for word in (f"--{key}", text))
    for path in write_summary(result, out, shlex.join(["fromnoise", *args.words, *dotted])):
        print(path)
    results = json_of(result)
    for name, scores in results.get("scores", {}).items():
        print(f"{name:7} " + ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items()))
    _print_calibration(results.get("calibration"))
    print(f"samples of a cluster: fromnoise sample {out} --label 0 --out samples.png")
    return results


def _print_calibration(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    line = f"probabilities: temperature {found['temperature']:.3g} from {found['source']}"
    if "calibrated" in found:
        before, after = found["uncalibrated"], found["calibrated"]
        line += f"; calibration error {before['ece']:.4f} before and {after['ece']:.4f} after"
        line += f" (by chance {after['by_chance']:.4f}, n = {after['images']:,})"
    print(line)


def _select_by_bound(args: argparse.Namespace, counts: list[int]) -> int:
    """Train a model for each number of clusters in its own directory, and select one."""
    from fromnoise.clustering.model_selection import held_out_bounds, select_count
    from fromnoise.evaluation.estimate import Estimate

    bounds, found = {}, {}
    for count in counts:
        out = args.out / f"q{count:02d}"
        result = _fit(args, count, out)
        if result.signal:
            return 128 + result.signal
        results = _write(args, result, out)
        bounds[count] = held_out_bounds(result)
        mean = Estimate.mean_of(bounds[count])
        found[str(count)] = {"held_out_bound": mean.json()} | results
        print(f"{count} clusters: held-out bound {mean} nats per image, {mean.n} images")
    count = select_count(bounds)
    if args.json:
        write_json(args.json, {"selected": count, "counts": found})
    print(f"selected {count} clusters, the fewest within one standard error of the best: {args.out / f'q{count:02d}'}")
    return 0
