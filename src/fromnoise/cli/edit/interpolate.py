"""``fromnoise edit interpolate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromnoise.cli import component_flags

HELP = "interpolate between two images"
EPILOG = """Both images are noised to t, mixed and denoised, as in the DDPM paper; with --flow they are encoded and
decoded along the probability flow, so that both ends are reproduced. The grid has one row for each depth.

examples:
  fromnoise edit interpolate runs/mine --image a.png --to b.png --depth 0.25,0.5,0.75 --out between.png
  fromnoise edit interpolate runs/mine --image a.png --to b.png --depth 1 --flow --out between.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("--image", metavar="FILE", type=Path, required=True, help="the first image")
    add("--to", metavar="FILE", type=Path, required=True, help="the last image, of the same size")
    add("--out", metavar="PNG", type=Path, required=True, help="the grid of images")
    add("--depth", metavar="T,...", default="0.5", help="times t of the interpolation, in (0, 1]; one row each")
    add("--points", metavar="N", type=int, default=9, help="images in a row, including both ends")
    add("--flow", action="store_true", help="encode and decode along the probability flow")
    add("--steps", metavar="K", type=int, help="sampling steps from t = 1 to t = 0")
    component_flags.add_flag(parser, "sampler", "--sampler", "sampler")
    add("--grid", metavar="NAME", help="time grid: see fromnoise sample --help")
    add("--seed", metavar="S", type=int, default=0, help="seed of the noise")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")


def run(args: argparse.Namespace) -> int:
    """Interpolate."""
    import torch

    from fromnoise.checkpoint import load_model
    from fromnoise.cli import guidance_flags
    from fromnoise.cli.common import check_minimum, parse_times
    from fromnoise.editing import load_image
    from fromnoise.editing.interpolation import interpolate
    from fromnoise.reporting import image_io
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    check_minimum(("--points", args.points, 2))
    depths = parse_times("--depth", args.depth)
    check_file(args.out, ".png")
    model = load_model(args.model).model
    config = guidance_flags.settings(model.recipe.sample, args, "steps", "grid")
    ends = [load_image(path, model.dataset_info.shape[0])[0] for path in (args.image, args.to)]
    for path, end in zip((args.image, args.to), ends, strict=True):
        _check_size(path, tuple(end.shape[1:]), model.dataset_info.shape[1:])
    compute = select_device(args.device, "fp32")
    compute.to_device(model.denoiser)
    rows = [
        interpolate(model, config, compute, torch.stack(ends), t, args.points, flow=args.flow, seed=args.seed)
        for t in depths
    ]
    image_io.save(image_io.grid(torch.cat(rows), columns=args.points), args.out)
    print(args.out)
    return 0


def _check_size(path: Path, size: tuple[int, ...], own: tuple[int, ...]) -> None:
    from fromnoise.utils.errors import UserError

    if size != own:
        raise UserError(
            f"{path} has {size[0]}x{size[1]} pixels and this model was trained on {own[0]}x{own[1]}: resize it"
        )
