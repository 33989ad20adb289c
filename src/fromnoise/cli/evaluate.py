"""``fromnoise evaluate``."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fromnoise.data import Data
    from fromnoise.evaluation.features.extractor import FeatureExtractor
    from fromnoise.evaluation.resolve import AnyModel
    from fromnoise.evaluation.sources import ImageSource
    from fromnoise.pipeline.sample_parts import SampleParts
    from fromnoise.utils.device import ComputeConfig

HELP = "evaluate models or samples against real images: distances, near copies, class balance, cost"
EPILOG = """each SOURCE is a run directory, a .safetensors file, a model of another program such as a diffusers folder,
or image files of any program: a folder, .zip or .npz. All are rows of one table.
every metric is reported with its standard error, its sample size n, and the same metric of held-out real images.

examples:
  fromnoise evaluate runs/digits
  fromnoise evaluate runs/a runs/b ddpm-folder others.npz --against mnist -n 5000 --out comparison
  fromnoise evaluate runs/a --sweep steps=5,10,20,50 --sweep sampler=ddim,unipc -n 1000
  torchrun --nproc_per_node 8 -m fromnoise evaluate runs/a --against cifar10 -n 50000 --features inception"""


_OUTPUTS = ("out", "json", "device", "run", "words", "dotted")
"""Arguments on which no sample depends."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "sources", metavar="SOURCE", nargs="+", help="a run, hub:owner/name, a model of another program, or image files"
    )
    add("--against", metavar="SPEC", help="real images; the training data of the runs by default")
    add("-n", dest="count", metavar="N", type=int, default=2000, help="number of samples of each source")
    add(
        "--features",
        metavar="NAME",
        help="classifier (the default for data with labels), self-supervised (the default for others), pixels, "
        "inception (for FID and KID), dinov2",
    )
    add(
        "--bits",
        metavar="N",
        type=int,
        default=64,
        help="number of held-out and of training images whose code lengths are compared; 0 for none",
    )
    add("--out", metavar="DIR", type=Path, help="folder of the report; evaluation-1 (2, ...) in the first run")
    add("--json", metavar="FILE", type=Path, help="also write the numbers as JSON")
    add(
        "--sweep",
        metavar="KEY=A,B",
        action="append",
        default=[],
        help="evaluate each run with each value of a sampling key: sampler, steps, sampler.eta, ...",
    )
    add("--size", metavar="S", type=int, help="side in pixels to which image files are resized")
    add("--label", metavar="L", help="class of the samples, by name or number; several with commas; by default all")
    add("--seed", metavar="S", type=int, default=0, help="seed of the samples")
    add("--batch", metavar="B", type=int, default=64, help="samples per batch; processes take turns")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


def run(args: argparse.Namespace) -> int:
    """Sample, evaluate and write the report."""
    from fromnoise.cli.common import check_minimum

    check_minimum(
        ("-n", args.count, 10), ("--bits", args.bits or None, 2), ("--batch", args.batch, 1), ("--size", args.size, 1)
    )
    from fromnoise.training.distributed import processes

    with processes(args.device):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Sample, in one process or several, and evaluate in the first one."""
    from collections import deque
    from contextlib import ExitStack

    from tqdm import tqdm

    from fromnoise.evaluation import resolve
    from fromnoise.evaluation.features.select import check_features
    from fromnoise.evaluation.model_source import ModelSource, ProcessGroup
    from fromnoise.training.distributed import check_equal, make_accelerator, software
    from fromnoise.utils.device import select_device
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file, check_folder
    from fromnoise.utils.locks import is_free, reserved_folder

    if args.out is not None and not is_free(args.out):
        raise UserError(f"{args.out} is not empty: choose another --out")
    check_folder(args.out or next(_folders(args.sources)))
    check_features(args.features)
    if args.json is not None:
        check_file(args.json, ".json")
    sweep = resolve.parse_sweep(args.sweep)
    accelerator = make_accelerator(args.device == "cpu")
    main, world = accelerator.is_main_process, accelerator.num_processes
    device = str(accelerator.device) if args.device is None or world > 1 else args.device
    compute = select_device(device, args.precision)
    flags = {name: repr(value) for name, value in vars(args).items() if name not in _OUTPUTS}
    check_equal(flags | software(compute))

    def gather(batch: Tensor) -> Tensor:  # nccl gathers tensors of GPUs
        return cast("Tensor", accelerator.gather(batch.to(accelerator.device))).cpu()

    processes = ProcessGroup(accelerator.process_index, world, gather)

    def log(line: str) -> None:
        if main:
            tqdm.write(line, file=sys.stderr)

    with ExitStack() as stack:
        folders = _folders(args.sources) if args.out is None else [args.out]
        out = stack.enter_context(reserved_folder(folders)) if main else None
        runs = resolve.open_runs(args.sources, sweep, args.label, _open_foreign)
        data = resolve.real_images(runs, args.against, args.size, log)
        parts = stack.enter_context(_Parts(args, flags, main))
        request = resolve.SampleRequest(args.count, args.seed, args.label, args.batch, compute, processes, parts.of)
        sources = resolve.image_sources(args.sources, runs, sweep, data, request, args.size is not None, log)
        if out is not None:
            return _evaluate(args, data, sources, compute, out, log)
        for source in sources:  # the other processes only sample
            if isinstance(source, ModelSource):
                deque(source.batches(), maxlen=0)
    return 0


class _Parts:
    """Finished batches of all sources; a context manager that removes them unless it is interrupted."""

    def __init__(self, args: argparse.Namespace, flags: dict[str, str], main: bool) -> None:
        """Keep nothing yet; ``main`` is true in the process that writes."""
        self._out = args.out or next(_folders(args.sources)).with_name("evaluation")
        self._several, self._flags, self._main = args.count > args.batch, flags, main
        self._opened: list[SampleParts] = []

    def of(self, name: str, module: nn.Module) -> SampleParts | None:
        """The parts of a source; None where one batch is all, or another process has the same command."""
        from accelerate.utils import broadcast_object_list

        from fromnoise.pipeline.sample_parts import SampleParts
        from fromnoise.training.distributed import weights_identity
        from fromnoise.utils.errors import UserError

        if not self._several:
            return None
        parts = SampleParts(self._out, self._flags | {"source": name} | weights_identity(module))
        if self._main:
            try:
                parts.open()
                self._opened.append(parts)
            except UserError:
                pass
        return parts if broadcast_object_list([bool(self._opened and self._opened[-1] is parts)])[0] else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        from fromnoise.utils.errors import UserError

        for parts in self._opened:
            if kind is None or issubclass(kind, UserError):
                parts.remove()
            parts.close()


def _open_foreign(name: str) -> AnyModel | None:
    """A model of another program that is read without opening a pickle.

    Raises:
        UserError: it is a pickle.
    """
    from fromnoise import interop
    from fromnoise.checkpoint import Loaded
    from fromnoise.interop.pickles import is_pickle
    from fromnoise.utils.errors import UserError

    if is_pickle(name):
        raise UserError(f"{name} is a pickle: make a run of it with fromnoise import {name} --out RUN")
    if not interop.is_foreign(name):
        return None
    return Loaded(interop.import_model(name).model, {}, Path(name) / "model.safetensors")


def _evaluate(
    args: argparse.Namespace,
    data: Data,
    sources: Sequence[ImageSource],
    compute: ComputeConfig,
    out: Path,
    log: Callable[[str], None],
) -> int:
    """Measure, write and print."""
    from tqdm import tqdm

    from fromnoise.cli.common import write_json
    from fromnoise.evaluation import memorization, page, time_estimate
    from fromnoise.evaluation.features.select import select_features
    from fromnoise.evaluation.measurement import measure
    from fromnoise.evaluation.result_tables import metrics_table, source_reports
    from fromnoise.evaluation.sources import RealImages
    from fromnoise.reporting.documents import write_document
    from fromnoise.reporting.formatting import format_duration

    with tqdm(desc="training the feature extractor, once per data set", unit="step", disable=None) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        extractor = select_features(args.features, data, compute=compute, log=log, on_step=on_step)
    reference = RealImages("training images", data.train)
    models = memorization.comparable_models(sources, data, log) if args.bits else {}
    sampling = sum(s.estimated_seconds() for s in sources)
    measuring = time_estimate.estimated_seconds(sources, reference, data.held_out, extractor)
    measuring += memorization.estimated_seconds(models, data, compute, args.bits)
    log(f"estimated time: {format_duration(sampling)} of sampling and {format_duration(measuring)} of measuring")
    interval = 0.2 if sys.stderr.isatty() else 20.0
    total = time_estimate.image_count(sources, reference, data.held_out)
    total += memorization.image_count(models, data, args.bits)
    with tqdm(total=total, unit="image", mininterval=interval) as bar:

        def on_progress(name: str, count: int) -> None:
            bar.set_description(name, refresh=False)
            bar.update(count)

        measurement = measure(sources, reference, data.held_out, extractor, on_progress)
        code_lengths = memorization.all_code_lengths(models, data, compute, args.bits, on_progress)
    reports = source_reports(measurement, code_lengths)
    command = shlex.join(["fromnoise", *args.words])
    environment = page.Environment(command, args.against or "the training data", _details(extractor, compute))
    blocks = page.document(measurement, reports, reference, environment)
    files = write_document(out, f"fromnoise evaluate: {', '.join(args.sources)}", blocks)
    for path in (out / "report.json", *([args.json] if args.json else [])):
        write_json(path, page.as_json(measurement, reports, environment))
    print(metrics_table(reports).plain())
    for report in reports:
        for finding in report.findings:
            print(f"{report.name}: {finding}")
    print(files[0])
    return 0


def _details(extractor: FeatureExtractor, compute: ComputeConfig) -> tuple[str, ...]:
    from datetime import date

    import torch

    from fromnoise import __version__

    return (
        f"features: {extractor.description}",
        f"{date.today()}, fromnoise {__version__}, torch {torch.__version__}, {compute.describe()}",
    )


def _folders(names: Sequence[str]) -> Iterator[Path]:
    """evaluation-1, evaluation-2, ...: in the first source if that is a run."""
    first = Path(names[0])
    base = first if first.is_dir() and (first / "model.safetensors").exists() else Path()
    return (base / f"evaluation-{i}" for i in itertools.count(1))
