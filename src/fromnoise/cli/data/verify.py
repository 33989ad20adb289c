"""``fromnoise data verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "read packed shards and compare them with their digests"
EPILOG = """example:
  fromnoise data verify shards"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the shards")


def run(args: argparse.Namespace) -> int:
    """Check the shards; the exit code is 2 if one is missing or damaged."""
    from tqdm import tqdm

    from fromnoise.data.shards.manifest import problem_list
    from fromnoise.data.shards.verify import verify
    from fromnoise.utils.errors import UserError

    with tqdm(unit="shard", delay=1) as bar:

        def on_shard(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        manifest, problems = verify(args.folder, on_shard)
    if problems:
        raise UserError(
            f"{len(problems)} of {len(manifest.shards)} shards in {args.folder} are missing or damaged: "
            f"{problem_list(problems)}; remove the damaged ones and run fromnoise data pack again, which writes them"
        )
    print(f"{len(manifest.shards)} shards are whole")
    return 0
