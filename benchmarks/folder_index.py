"""What the first and further starts on a folder of many files cost, with and without its index.

python benchmarks/folder_index.py [--count 1000000] [--folders 1000] [--folder FOLDER]

The files are links to a few images of 8x8, which the file system lists like any others; asking for their sizes is
cheaper than for files of their own. Each row is a process of its own that opens the folder and computes what the
fingerprint is made of: seconds, processor seconds, and the memory beyond that of the imported program, at its peak and
when the source is ready.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from header import header
from PIL import Image
from scale import memory

from fromnoise.data import folder_index
from fromnoise.data.spec import open_splits

_LINKS = 50_000  # to one file; ext4 allows 65,000


def make(root: Path, count: int, folders: int) -> None:
    """Write the folder, and make it look as if it had not changed for an hour."""
    sources = root.with_name(f"{root.name}-sources")
    sources.mkdir(parents=True)
    for k in range(folders):
        (root / f"class{k:05d}").mkdir(parents=True)
    source = sources / "0.png"
    for i in range(count):
        if i % _LINKS == 0:
            source = sources / f"{i}.png"
            Image.new("L", (8, 8), i % 256).save(source)
        os.link(source, root / f"class{i % folders:05d}" / f"{i:08d}.png")
    then = time.time() - 3600
    for folder in (root, *root.iterdir()):
        os.utime(folder, (then, then))


def measure_here(root: Path, indexed: bool) -> dict[str, float]:
    """Open the folder in this process."""
    if not indexed:
        folder_index.MANY_FILES = 1 << 62
    before, begin, spent = memory(), time.perf_counter(), time.process_time()
    sources = open_splits(str(root), lambda line: None)
    opened, kept = time.perf_counter() - begin, memory() - before
    digest = hashlib.sha256()
    for source in sources.values():
        source.label_codes()
        for block in source.identity():
            digest.update(block)
    seconds, processor = time.perf_counter() - begin, time.process_time() - spent
    peak = memory(peak=True) - before
    return {"opened": opened, "seconds": seconds, "processor": processor, "peak": peak, "kept": kept} | {
        "digest": int(digest.hexdigest()[:12], 16)
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("build/many-files"))
    parser.add_argument("--one", choices=("plain", "indexed"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    root = args.folder / f"{args.count}-{args.folders}"
    os.environ["FROMNOISE_CACHE"] = str((args.folder / "cache").absolute())
    if args.one:
        print(json.dumps(measure_here(root, args.one == "indexed")))
        return
    if not root.exists():
        make(root, args.count, args.folders)
    path = folder_index.index_path(root)
    path.unlink(missing_ok=True)
    print(header())
    print("| start | s until open | s with fingerprint | CPU s | MB at the peak | MB kept | bytes an image kept |")
    print("|---" * 7 + "|")
    digests = set()
    for name, kind in (
        ("without an index", "plain"),
        ("first, makes the index", "indexed"),
        ("by the index", "indexed"),
    ):
        words = ["--count", str(args.count), "--folders", str(args.folders), "--folder", str(args.folder)]
        done = subprocess.run(
            [sys.executable, __file__, "--one", kind, *words], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        digests.add(found["digest"])
        print(
            f"| {name} | {found['opened']:.1f} | {found['seconds']:.1f} | {found['processor']:.1f} "
            f"| {found['peak']:.0f} | {found['kept']:.0f} | {found['kept'] * 2**20 / args.count:.0f} |",
            flush=True,
        )
    print(f"the index has {path.stat().st_size:,} bytes, {path.stat().st_size / args.count:.1f} an image; ", end="")
    print("fingerprints are equal" if len(digests) == 1 else "fingerprints differ")


if __name__ == "__main__":
    main()
