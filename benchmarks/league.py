"""Equal minutes for diffusers, denoising-diffusion-pytorch, smalldiffusion, azula, torchcfm and fromnoise.

python benchmarks/league.py --minutes 10 --seeds 0 --data fashion_mnist [--entries NAME,...] [-n 1024] [--threads 2]
    [--json FILE] [--pictures DIR] [--again]
python benchmarks/league.py --table [--page docs/results/league.md]

Each entry of ``peers/`` trains for so many minutes of steps in a process of its own, on the training images of
a data set. Then every combination of its weights (averaged, last) and samplers samples 128 images; that with the
least kernel distance samples N others, i.i.d., which are measured: Frechet and kernel distance to 10,000 training
images in the features of a classifier, beside as many held-out images. Results are added to a JSON file, and a run
that is in it is not repeated without --again; a run that fails is reported and tried again by the next command. --table
prints means and standard deviations over the seeds, and --page writes them into a page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from header import header
from peers import ENTRIES
from peers.common import Budget, Sampler, Task, Trained
from torch import Tensor
from training_time import Distances

from fromnoise.data import Data, load, to_uint8
from fromnoise.evaluation.sources import RealImages
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device
from fromnoise.utils.files import write_atomic

HERE = Path(__file__).parent
RESULTS, PICTURES = HERE / "league.json", HERE.parent / "docs" / "images" / "league"
SCREENED, BATCH = 128, 128
DATA = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10, 10,000 images", "mnist": "MNIST"}
Run = dict[str, Any]

# ---- one run, in a process of its own


def sampled(sampler: Sampler, count: int) -> Tensor:
    """Samples in batches, uint8 (count, C, H, W)."""
    with torch.no_grad():
        sizes = [min(BATCH, count - first) for first in range(0, count, BATCH)]
        return torch.cat([to_uint8(sampler(size).clamp(-1, 1)) for size in sizes])


def measured(trained: Trained, distances: Distances, count: int) -> tuple[Run, Tensor]:
    """The figures of the best combination of weights and sampler, and its samples."""
    screened = {}
    if len(trained.samplers) > 1:
        for name, sampler in trained.samplers.items():
            found = distances(sampled(sampler, min(count, SCREENED)))
            screened[name] = round(found["kernel"], 2)
    chosen = min(screened or trained.samplers, key=lambda name: screened.get(name, 0.0))
    evaluated = 0

    def count_images(module: Any, given: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        nonlocal evaluated
        evaluated += max(len(x) for x in (*given, *named.values()) if isinstance(x, Tensor) and x.ndim == 4)

    hook = trained.network.register_forward_hook(count_images, with_kwargs=True)
    start = time.perf_counter()
    images = sampled(trained.samplers[chosen], count)
    seconds = time.perf_counter() - start
    hook.remove()
    figures = {"sampler": chosen, "screened": screened, "sampling_seconds": round(seconds, 1)}
    return figures | {"nfe": round(evaluated / count, 1)} | distances(images), images


def run_entry(name: str, data: Data, args: argparse.Namespace) -> tuple[Run, Tensor]:
    """Train, sample and measure an entry."""
    torch.set_num_threads(args.threads)
    seed, entry = int(args.seeds), ENTRIES[name]
    distances = Distances.to_training_images(data, select_device("cpu"))
    task = Task(args.data, data.train.get(torch.arange(len(data.train))), class_labels(data), seed)
    torch.manual_seed(seed)
    budget, start = Budget(60 * args.minutes), time.perf_counter()
    trained = entry.train(task, budget, entry.bf16)
    wall = time.perf_counter() - start
    figures, images = measured(trained, distances, args.n)
    real = torch.cat(list(RealImages("real", data.held_out, min(args.n, len(data.held_out))).batches()))
    return {
        "steps": trained.steps,
        "images": trained.images,
        "seconds": round(trained.seconds, 2),
        "wall_seconds": round(wall, 2),
        "parameters": trained.parameters,
        "precision": trained.precision or ("bf16" if entry.bf16 else "fp32"),
        **figures,
        "real_vs_real": distances(real),
        "accuracy": distances.classifier.accuracy,
    }, images


def class_labels(data: Data) -> Tensor:
    """Classes of the training images, (N,)."""
    if data.train.labels is None:
        raise SystemExit("the distances are in features of a classifier: choose a data set with labels")
    return data.train.labels


# ---- many runs


def key(run: Run) -> tuple[Any, ...]:
    """What a run is: entry, data set, minutes, threads, seed and number of samples."""
    return run["entry"], run["data"], run["minutes"], run["threads"], run["seed"], run["n"]


def read(path: Path) -> list[Run]:
    """The runs so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def add(path: Path, run: Run) -> None:
    """Add a run to those of a file, in place of one of the same key."""
    runs = [*(r for r in read(path) if key(r) != key(run)), run]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(runs, indent=1) + "\n").encode())


def missing(runs: list[Run], wanted: Iterable[Run], again: bool = False) -> list[Run]:
    """Those of ``wanted`` that are not finished; all with ``again``."""
    finished = {key(run) for run in runs if "error" not in run}
    return [run for run in wanted if again or key(run) not in finished]


def run_apart(run: Run, args: argparse.Namespace) -> Run:
    """A run in a process of its own; its last line of stderr as ``error`` if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        options = {k: run[k] for k in ("data", "minutes", "threads")} | {"seeds": run["seed"]}
        options |= {"pictures": args.pictures, "json": out, "entries": run["entry"]}
        command = [sys.executable, str(Path(__file__)), "--one", "-n", str(run["n"])]
        command += [part for k, v in options.items() for part in (f"--{k}", str(v))]
        environment = os.environ | {"OMP_NUM_THREADS": str(run["threads"]), "TMPDIR": folder}  # removed afterwards
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        if done.returncode == 0:
            return run | json.loads(out.read_text(encoding="utf-8"))
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return run | {"error": f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}"}


def one(args: argparse.Namespace) -> None:
    """The process of a run: writes its figures and a grid of its samples."""
    data = load(args.data)
    figures, images = run_entry(args.entries, data, args)
    args.pictures.mkdir(parents=True, exist_ok=True)
    if int(args.seeds) == 0:
        image_io.save(
            image_io.grid(images[:64], columns=16), args.pictures / picture(args.data, args.minutes, args.entries)
        )
    write_atomic(args.json, json.dumps(figures).encode())


def picture(data: str, minutes: float, entry: str) -> str:
    """Name of the file with samples of seed 0."""
    return f"{data}-{minutes:g}-{entry}.png"


def describe(run: Run) -> str:
    """A run in a line."""
    name = f"{run['entry']}, {run['data']}, {run['minutes']:g} minutes, seed {run['seed']}"
    if "error" in run:
        return f"{name}: FAILED, {run['error']}"
    return (
        f"{name}: Frechet {run['frechet']:.2f} +- {run['frechet_error']:.2f} "
        f"(real_vs_real {run['real_vs_real']['frechet']:.2f}), kernel x 1000 {run['kernel']:.1f} +- "
        f"{run['kernel_error']:.1f}; {run['steps']:,} steps, {run['images'] / run['seconds']:.0f} images/s; "
        f"{run['sampler']} in {run['sampling_seconds']:.0f} s"
    )


# ---- tables


def mean_and_sd(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation over seeds."""
    mean = f"{statistics.mean(values):,.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} +- {statistics.stdev(values):.{decimals}f}"


def groups(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Runs by the values of some keys, in the order in which these appear."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(run[k] for k in keys), []).append(run)
    return found


def mean_of(runs: list[Run], name: str = "frechet") -> float:
    """Mean of a figure over runs."""
    return statistics.mean(run[name] for run in runs)


COLUMNS = (
    "library | entry | precision | seeds | Frechet | kernel x 1000 | parameters | steps | images/s | weights, sampler "
    "| evaluations | sampling s"
)


def row(runs: list[Run]) -> str:
    """A row of ``COLUMNS``."""
    first = runs[0]
    return " | ".join(
        [
            ENTRIES[first["entry"]].library,
            first["entry"],
            first["precision"],
            str(len(runs)),
            mean_and_sd([r["frechet"] for r in runs], 2),
            mean_and_sd([r["kernel"] for r in runs], 1),
            f"{first['parameters'] / 1e6:.2f} M",
            mean_and_sd([r["steps"] for r in runs], 0),
            mean_and_sd([r["images"] / r["seconds"] for r in runs], 0),
            " / ".join(dict.fromkeys(r["sampler"] for r in runs)),
            " / ".join(dict.fromkeys(f"{r['nfe']:g}" for r in runs)),
            mean_and_sd([r["sampling_seconds"] for r in runs], 0),
        ]
    )


def best_entries(runs: list[Run]) -> dict[str, list[Run]]:
    """By library, the runs of its entry with the least mean Frechet distance, the nearest library first."""
    best: dict[str, list[Run]] = {}
    for (entry,), of_entry in groups(runs, "entry").items():
        library = ENTRIES[entry].library
        if library not in best or mean_of(of_entry) < mean_of(best[library]):
            best[library] = of_entry
    return dict(sorted(best.items(), key=lambda item: mean_of(item[1])))


def summary(best: dict[str, list[Run]], real: float) -> str:
    """Our distance above that of real images, beside the best other library's."""
    others = [library for library in best if library != "fromnoise"]
    if not others or "fromnoise" not in best:
        return ""
    ours, theirs = (mean_of(best[library]) - real for library in ("fromnoise", others[0]))
    return (
        f"Above the distance of real images (Frechet {real:.2f}): fromnoise {ours:.2f}, {others[0]} {theirs:.2f}, "
        f"a ratio of {ours / theirs:.2f}.\n"
    )


def tables(runs: list[Run]) -> str:
    """All finished runs in Markdown: for each data set and budget the best entry of each library, then all entries."""
    if not runs:
        return "No run is stored yet: none of this was measured.\n"
    parts = []
    finished = (r for r in runs if "error" not in r)
    for (data, minutes, threads, n), found in groups(finished, "data", "minutes", "threads", "n").items():
        real = [r["real_vs_real"] for r in found]
        distance = statistics.mean(r["frechet"] for r in real)
        title = f"### {DATA.get(data, data)}, {minutes:g} minutes, {threads} thread{'s' * (threads > 1)}\n"
        features = (
            f"n = {n:,}; classifier of accuracy {found[0]['accuracy']:.2%}; real_vs_real: Frechet {distance:.2f} +- "
            f"{real[0]['frechet_error']:.2f}, kernel x 1000 {real[0]['kernel']:.1f} +- {real[0]['kernel_error']:.1f}.\n"
        )
        rule = "|---" * (COLUMNS.count("|") + 1) + "|"
        best = best_entries(found)
        parts += [title, features, f"| {COLUMNS} |", rule, *(f"| {row(r)} |" for r in best.values()), ""]
        parts += [summary(best, distance)]
        for library, (first, *_) in best.items():
            name = picture(data, minutes, first["entry"])
            if (PICTURES / name).exists():
                parts += [f"![samples of {first['entry']}](../images/league/{name})\n", f"*{library}, seed 0.*\n"]
        others = [r for r in groups(found, "entry").values() if r not in best.values()]
        if others:
            parts += ["Other entries:\n", f"| {COLUMNS} |", rule, *(f"| {row(r)} |" for r in others), ""]
    failed = [f"- {describe(run)}" for run in runs if "error" in run]
    where = dict.fromkeys(run["header"] for run in runs if "header" in run)
    return "\n".join([*parts, *failed, "```text", *where, "```"]) + "\n"


def into_page(page: str, markdown: str) -> str:
    """A page with the tables between its two comments."""
    marks = "<!-- league: begin -->\n", "<!-- league: end -->"
    return re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: marks[0] + markdown + marks[1], page, flags=re.DOTALL)


# ---- the command


def main() -> None:
    """Run what is missing, or print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="all", help=f"comma-separated; one of {', '.join(ENTRIES)}")
    parser.add_argument("--data", default="fashion_mnist", help="comma-separated: fashion_mnist, cifar10, mnist")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--again", action="store_true", help="repeat runs that are finished")
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    parser.add_argument("--page", type=Path, help="with --table: write them into a page")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        markdown = tables(read(args.json))
        if args.page:
            write_atomic(args.page, into_page(args.page.read_text(encoding="utf-8"), markdown).encode())
        print(markdown)
        return
    if args.one:
        one(args)
        return
    names = list(ENTRIES) if args.entries == "all" else args.entries.split(",")
    if unknown := [name for name in names if name not in ENTRIES]:
        parser.error(f"unknown entry {unknown[0]}: choose from {', '.join(ENTRIES)}")
    wanted = [
        {"entry": name, "data": data, "minutes": args.minutes, "threads": args.threads, "seed": seed, "n": args.n}
        for data in args.data.split(",")
        for seed in map(int, args.seeds.split(","))
        for name in names
        if not ENTRIES[name].data or data in ENTRIES[name].data
    ]
    print(header(), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and the run in progress is ended
    for run in missing(read(args.json), wanted, args.again):
        result = run_apart(run, args) | {"header": header(), "version": version(ENTRIES[run["entry"]].library)}
        add(args.json, result)
        print(describe(result), flush=True)


if __name__ == "__main__":
    main()
