"""``fromnoise assign``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli.common import check_minimum, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.clustering.assignments import Assignments

HELP = "assign images to the clusters or classes of a model"
EPILOG = """Posterior probabilities are computed from the variational bound of each cluster. For a model trained with
class labels this is the diffusion classifier.

examples:
  fromnoise assign runs/clusters mnist:test --out test.csv
  fromnoise assign runs/fashion-labels fashion_mnist:test -n 500 --json accuracy.json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("data", metavar="SPEC", help="the images; SPEC:split selects a split")
    add("-n", dest="limit", metavar="N", type=int, help="number of images, selected by the seed; default: all")
    add(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("assignments.csv"),
        help=".csv, or .parquet with the probability of every cluster",
    )
    add("--e-step-probes", metavar="S", type=int, help="diffusion steps for every cluster; default: the recipe's")
    add("--e-step-refine", metavar="S", type=int, help="additional diffusion steps for the likely clusters")
    add("--candidates", metavar="K", type=int, help="number of likely clusters")
    add("--json", metavar="FILE", type=Path, help="write scores and cost as JSON")
    add("--seed", metavar="S", type=int, default=0, help="seed of the selection and of the noise")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Assign."""
    from fromnoise.utils.errors import UserError

    check_minimum(
        ("-n", args.limit, 1),
        ("--e-step-probes", args.e_step_probes, 1),
        ("--e-step-refine", args.e_step_refine, 0),
        ("--candidates", args.candidates, 1),
    )
    if args.out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {args.out} has no known format: use a name that ends in .csv or .parquet")
    import time

    from tqdm import tqdm

    from fromnoise.checkpoint import load_model
    from fromnoise.clustering.assign import assign, e_step_config
    from fromnoise.evaluation.resolve import load_model_data
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_file(args.out)
    if args.json is not None:
        check_file(args.json, ".json")
    loaded = load_model(args.model)
    loaded.model.require_pixels("assignment to clusters")
    if loaded.model.dataset_info.class_names is None:
        raise UserError(f"{args.model} has no clusters or classes: train a model by fromnoise cluster, or with labels")
    config = e_step_config(loaded.model, args.e_step_probes, args.e_step_refine, args.candidates)
    compute = select_device(args.device, args.precision)
    compute.to_device(loaded.model.denoiser)
    data = load_model_data(loaded.model, args.data, print)
    start = time.perf_counter()
    with tqdm(unit="image") as bar:
        table = assign(loaded, data, compute, config, args.limit, args.seed, bar.update)
    seconds = time.perf_counter() - start
    table.write(args.out)
    count = len(table.index)
    nfe = config.nfe(len(table.names))
    print(f"{count:,} images, {nfe} network evaluations and {seconds / count:.3g} s per image: {args.out}")
    scores = _scores(table, clusters=bool(loaded.progress.get("mixture")))
    for name, value in scores.items():
        print(f"{name.replace('_', ' ')} {value:.4f}")
    if args.json:
        write_json(args.json, {"images": count, "nfe": nfe, "seconds": seconds, **scores})
    return 0


def _scores(table: Assignments, clusters: bool) -> dict[str, float]:
    """Agreement with the labels; the classifier's accuracy if the model was trained with the classes of the labels.

    Clusters of EM may have the names of classes, numbers from 0, and are matched with them.
    """
    from fromnoise.clustering.calibration import Reliability
    from fromnoise.clustering.scores import ClusterScores

    if table.labels is None:
        return {}
    assigned: Tensor = table.q.argmax(1)
    if table.class_names == table.names and not clusters:
        found = Reliability.measure(table.q.amax(1), assigned == table.labels)
        scores = {"classifier_accuracy": float((assigned == table.labels).double().mean())}
    else:
        found = Reliability.of_clusters(table.q, assigned, table.labels)
        scores = dict(ClusterScores.from_labels(assigned, table.labels).__dict__)
    return scores | {"calibration_error": found.ece, "calibration_error_by_chance": found.by_chance}
