"""``fromnoise sample``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli import component_flags, guidance_flags, parsing

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.checkpoint import Loaded
    from fromnoise.diffusion.samplers import TunedSteps
    from fromnoise.model import AutoencoderModel, Model
    from fromnoise.pipeline import Samples, SampleStep
    from fromnoise.utils.device import ComputeConfig

HELP = "sample images from a trained model"
EPILOG = """Defaults are those of the model's recipe; another sampler has its own default steps and grid.

A command that was interrupted goes on with the batch after the last finished one when it is given again.

examples:
  fromnoise sample runs/digits -n 100 --out digits.png --gif reverse.gif
  fromnoise sample model.safetensors -n 1000 --sampler ddim --steps 50 --out samples.npz
  fromnoise sample runs/flowers -n 500 --out folder/
  torchrun --nproc_per_node 8 -m fromnoise sample runs/ho2020 -n 50000 --out samples.npz"""

_OUTPUTS = ("out", "gif", "strip", "device", "run", "words", "dotted")
"""Arguments on which no sample depends."""
LARGEST_GRID = 10_000
"""Images in a .png grid, at most."""
LARGEST_COUNT = 10_000_000
"""Samples of one command, at most."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add(
        "-n",
        dest="count",
        metavar="N",
        type=int,
        help="number of samples; default: 64, or 8 of each class with --label all",
    )
    add(
        "--out",
        metavar="PATH",
        type=Path,
        help=".png for a grid, .npz for an array, anything else is a folder of PNGs; "
        "default: sampled-SEED.png in the run directory",
    )
    add("--gif", metavar="FILE", type=Path, help="also write the reverse process as a GIF")
    add("--strip", metavar="FILE", type=Path, help="also write the reverse process as a row of images, a PNG")
    add(
        "--as-published",
        action="store_true",
        help="use the sampling settings of the publication (steps, variance, clipping)",
    )
    add("--steps", metavar="K", type=int, help="steps; heun and pc evaluate the network twice in each")
    add("--grid", metavar="NAME", help=f"time grid: {', '.join(component_flags.names('grid'))}")
    component_flags.add_flag(parser, "sampler", "--sampler", "sampler")
    add(
        "--tuned",
        action=argparse.BooleanOptionalAction,
        help="use the steps that fromnoise tune learned for this number of steps (default: yes)",
    )
    add("--seed", metavar="S", type=int, default=0, help="seed; sample i depends on (seed, i) only")
    add("--first", metavar="I", type=int, default=0, help="index of the first sample")
    add("--seeds", metavar="I,J,...", help="indices of the samples, such as 3,17,204")
    add("--size", metavar="HxW", help="size of the samples; default: that of the training images")
    add("--batch", metavar="B", type=int, default=64, help="samples per batch")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    guidance_flags.configure(parser)
    parser.epilog = f"{component_flags.add_list_of_components('sampler')}\n\n{EPILOG}"


def run(args: argparse.Namespace) -> int:
    """Sample."""
    from fromnoise.utils.errors import UserError

    count = 1 if args.count is None else args.count
    for flag, number, least in (("-n", count, 1), ("--batch", args.batch, 1), ("--first", args.first, 0)):
        if number < least:
            raise UserError(f"{flag} {number} is too small: use at least {least}")
    if args.seeds is not None and (args.count is not None or args.first):
        raise UserError("--seeds lists the samples, so leave out -n and --first")
    _check_outputs(args, count)
    from fromnoise.training.distributed import processes

    with processes(args.device):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Sample, in one process or several."""
    import time

    from fromnoise.checkpoint import load_trainable
    from fromnoise.data.dataset_info import conditioning_for
    from fromnoise.model import Model, no_wrapper
    from fromnoise.pipeline import sample_steps
    from fromnoise.reporting import image_io
    from fromnoise.training.distributed import device_of_rank
    from fromnoise.utils.device import select_device
    from fromnoise.utils.errors import UserError
    from fromnoise.utils.files import check_file

    if args.out is not None:
        image_io.check_writable(args.out)
    for path, ending in ((args.gif, ".gif"), (args.strip, ".png")):
        if path is not None:
            check_file(path, ending)
    loaded = load_trainable(args.model)
    out = args.out or loaded.results / f"sampled-{args.seed}.png"
    recipe = loaded.model.recipe
    if args.as_published and recipe.published is None:
        raise UserError(f"--as-published: the recipe {recipe.name} states no published sampling settings: leave it out")
    own = recipe.published if args.as_published and recipe.published is not None else recipe.sample
    config = guidance_flags.settings(own, args, "steps", "grid", "tuned")
    compute = select_device(device_of_rank(args.device), args.precision)
    compute.to_device(loaded.model.module)
    model, wrap = loaded.model, no_wrapper
    if isinstance(model, Model):
        model.guided(config)  # impossible guidance and too few steps are reported before the progress bar
        model, wrap = guidance_flags.wrap(args, model, compute)
        model.sampler(config)
    else:
        _check_one_pass(args)
    ids = _numbers(args, model)
    count = len(ids)
    conditioning_for(model.dataset_info, args.label, ids)  # an unknown label is reported before the progress bar
    size = parsing.parse_size("--size", args.size) if args.size else None
    own = isinstance(model, Model) and wrap is no_wrapper and size in (None, model.dataset_info.shape[1:])
    tuned = model.tuned_steps(config) if own and isinstance(model, Model) else None
    begun = time.perf_counter()

    def steps(part: Tensor) -> Iterator[SampleStep]:
        return sample_steps(
            model, config, compute, ids=part, seed=args.seed, label=args.label, batch=args.batch, wrap=wrap, size=size
        )

    number = len(model.levels(config)) - 1
    samples = _sample(args, loaded, compute, out, ids.split(args.batch), steps, number, tuned)
    if samples is None:  # the first process writes
        return 0
    spent = time.perf_counter() - begun
    labels = samples.labels if args.label is not None and model.dataset_info.class_names is not None else None
    names = model.dataset_info.class_names if args.label == "all" else None
    image_io.save_images(samples.images, out, labels, ids.tolist(), names)
    used = f", {number} tuned steps (--no-tuned: sampler {config.sampler.kind})" if tuned else ""
    print(f"{count} samples in {spent:.1f} s ({spent / count:.3g} s each{used}): {out}")
    if args.gif:
        image_io.save_gif(samples.frames, args.gif)
        print(f"the reverse process: {args.gif}")
    if args.strip:
        image_io.save(image_io.reverse_strip(samples.frames, samples.times), args.strip)
        print(f"the reverse process: {args.strip}")
    return 0


def _sample(
    args: argparse.Namespace,
    loaded: Loaded[Model | AutoencoderModel],
    compute: ComputeConfig,
    out: Path,
    batches: Sequence[Tensor],
    steps: Callable[[Tensor], Iterator[SampleStep]],
    steps_of_a_batch: int,
    tuned: TunedSteps | None,
) -> Samples | None:
    """Sample the batches of this process that are not finished; all samples, in the first process.

    Raises:
        UserError: a sample is not finite, a part cannot be written, or the processes have different models or flags.
    """
    import contextlib

    import torch.distributed as dist
    from tqdm import tqdm

    from fromnoise.pipeline import collect
    from fromnoise.pipeline.sample_parts import SampleParts
    from fromnoise.training.distributed import check_equal, software, weights_identity
    from fromnoise.utils.errors import UserError

    frames = 100 if args.gif or args.strip else 0
    together = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    total, kept = len(batches[rank::world]) * steps_of_a_batch, None
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, unit="step", disable=rank > 0))
        if world == 1 and len(batches) == 1:
            return collect(steps(batches[0]), frames, lambda step: bar.update())
        flags = {name: repr(value) for name, value in vars(args).items() if name not in _OUTPUTS}
        command = flags | weights_identity(loaded.model.module) | {"tuned": repr(tuned)}
        check_equal(command | software(compute))
        parts = stack.enter_context(contextlib.closing(SampleParts(out, command)))
        if rank == 0:
            parts.open()
        for number in range(rank, len(batches), world):
            wanted = frames if number == 0 else 0
            if not wanted and parts.load(number) is not None:
                bar.update(steps_of_a_batch)
                continue
            try:
                found = collect(steps(batches[number]), wanted, lambda step: bar.update())
            except UserError:
                parts.remove()  # the same command would fail again
                raise
            kept = found if number == 0 else kept
            parts.save(number, found)
        if together:
            dist.barrier()
        if rank:
            return None
        samples = parts.merge(len(batches))
        parts.remove()
    if kept is not None:
        samples.frames, samples.times = kept.frames, kept.times
    return samples


def _check_one_pass(args: argparse.Namespace) -> None:
    """Check that no flag of diffusion is given for a variational autoencoder.

    Raises:
        UserError: one is.
    """
    from fromnoise.utils.errors import UserError

    flags = ("steps", "grid", "sampler", "guidance", "autoguide", "classifier", "clip", "threshold", "interval")
    for name in flags:
        if getattr(args, name, None) is not None:
            raise UserError(f"--{name} is for diffusion: a variational autoencoder samples in one pass; leave it out")


def _check_outputs(args: argparse.Namespace, count: int) -> None:
    """Check the number of samples and the output paths.

    Raises:
        UserError: too many samples, or one path for two files.
    """
    from fromnoise.utils.errors import UserError

    if count > LARGEST_COUNT:
        raise UserError(f"-n {count} is too large: use at most {LARGEST_COUNT:,}, and --first to go on")
    if count > LARGEST_GRID and (args.out is None or args.out.suffix.lower() == ".png"):
        raise UserError(f"-n {count} is too large for a grid: use --out FILE.npz or --out FOLDER")
    paths = [p.absolute() for p in (args.out, args.gif, args.strip) if p is not None]
    if len(set(paths)) < len(paths):
        raise UserError("--out, --gif and --strip need different files")


def _numbers(args: argparse.Namespace, model: Model | AutoencoderModel) -> Tensor:
    """The numbers of the samples, (N,).

    Raises:
        UserError: a number too large.
    """
    import torch

    from fromnoise.utils.errors import UserError

    if args.seeds is not None:
        return torch.tensor(parsing.parse_list("--seeds", args.seeds))
    each = (
        8 * len(model.dataset_info.class_names)
        if args.label == "all" and model.dataset_info.class_names is not None
        else 64
    )
    count = args.count if args.count is not None else each
    if args.first + count > 2**63 - 1:
        raise UserError(f"--first {args.first} is too large: sample numbers end at 2^63")
    return torch.arange(args.first, args.first + count)
