"""``fromnoise push``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "publish a model on the Hugging Face hub, with a model card"
EPILOG = """the repository gets the model, its recipe and reports, samples, and a card made from them; afterwards
hub:owner/name stands for the run in every verb. The path of images of your own is left out. HF_TOKEN, or
hf auth login, has the token; HF_ENDPOINT names another hub.

examples:
  fromnoise push runs/digits my-name/digits --private
  fromnoise push runs/digits my-name/digits --license mit --out folder-to-look-at"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("repository", metavar="OWNER/NAME", help="repository, created if there is none; @branch for another branch")
    add("--private", action="store_true", help="a new repository is seen by its owner alone")
    add(
        "--license",
        metavar="ID",
        help="licence of the model in the hub's words: mit, apache-2.0, ...; none if left out",
    )
    add("-n", dest="count", metavar="N", type=int, default=36, help="samples on the card; 0 for none")
    add("--seed", metavar="S", type=int, default=0, help="seed of the samples")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--out", metavar="DIR", type=Path, help="write the files into a new folder, and upload nothing")


def run(args: argparse.Namespace) -> int:
    """Make the files and upload them."""
    from fromnoise.checkpoint import load_model
    from fromnoise.cli.common import check_minimum
    from fromnoise.interop.importing import check_out
    from fromnoise.interop.publish import MESSAGE, check_license, repository_files
    from fromnoise.utils.files import write_atomic
    from fromnoise.utils.hub import HubName, check_token, upload

    check_minimum(("-n", args.count, 0))
    name = HubName.parse(args.repository)
    check_license(args.license)
    if args.out is not None:
        check_out(args.out)
    else:
        check_token(name)
    files = repository_files(
        load_model(args.model), name, license=args.license, samples=args.count, seed=args.seed, device=args.device
    )
    for path, content in files.items():
        if args.out is not None:
            write_atomic(args.out / path, content)
        print(f"{path}: {len(content):,} bytes")
    if args.out is not None:
        print(args.out)
        return 0
    print(upload(name, files, MESSAGE, args.private))
    print(f"fromnoise sample {name} --out samples.png")
    return 0
