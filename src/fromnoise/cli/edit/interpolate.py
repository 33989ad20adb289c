"""``fromnoise edit interpolate``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw pictures between two"
EPILOG = """both are taken up to t, mixed there, and brought down: as in the DDPM paper with noise of their own, or
with --flow along the probability flow, where both ends come back as they were. A row a depth.

examples:
  fromnoise edit interpolate runs/mine --image a.png --to b.png --depth 0.25,0.5,0.75 --out between.png
  fromnoise edit interpolate runs/mine --image a.png --to b.png --depth 1 --flow --out between.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("--image", metavar="FILE", type=Path, required=True, help="the first picture")
    add("--to", metavar="FILE", type=Path, required=True, help="the last picture, of the same size")
    add("--out", metavar="PNG", type=Path, required=True, help="where the grid goes")
    add("--depth", metavar="T,...", default="0.5", help="t to mix at, in (0, 1]; several with commas are rows")
    add("--points", metavar="N", type=int, default=9, help="pictures a row, the ends among them")
    add("--flow", action="store_true", help="along the probability flow, on the sphere")
    add("--steps", metavar="K", type=int, help="steps of the whole way from noise")
    add("--sampler", metavar="NAME", help="what a step down does: see fromnoise sample --help")
    add("--grid", metavar="NAME", help="where the steps are: see fromnoise sample --help")
    add("--seed", metavar="S", type=int, default=0, help="of the noise")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")


def run(args: argparse.Namespace) -> int:
    """Interpolate."""
    import torch

    from fromnoise.checkpoint import load_model
    from fromnoise.cli import guidance_flags
    from fromnoise.cli.common import check_minimum, parse_times
    from fromnoise.editing import load_picture
    from fromnoise.editing.interpolation import between
    from fromnoise.reporting import image_io
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_minimum(("--points", args.points, 2))
    depths = parse_times("--depth", args.depth)
    check_file(args.out, ".png")
    model = load_model(args.model).model
    config = guidance_flags.settings(model.recipe.sample, args, "sampler", "steps", "grid")
    ends = [load_picture(path, model.dataset_info.shape[0])[0] for path in (args.image, args.to)]
    for path, end in zip((args.image, args.to), ends, strict=True):
        _check_size(path, tuple(end.shape[1:]), model.dataset_info.shape[1:])
    compute = select_device(args.device, "fp32")
    compute.to_device(model.denoiser)
    rows = [
        between(model, config, compute, torch.stack(ends), t, args.points, flow=args.flow, seed=args.seed)
        for t in depths
    ]
    image_io.save(image_io.grid(torch.cat(rows), columns=args.points), args.out)
    print(args.out)
    return 0


def _check_size(path: Path, size: tuple[int, ...], own: tuple[int, ...]) -> None:
    from fromnoise.utils.errors import UserError

    if size != own:
        raise UserError(f"{path} is {size[0]}x{size[1]} and this model draws {own[0]}x{own[1]}: resize it")
