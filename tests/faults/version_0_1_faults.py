"""The faults of review C on version 0.1, with its names and commands; see ``version_0_1_numbers`` for the form."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sandbox import Child, Limits, Outcome, run
from version_0_1_numbers import TINY, Finding, item, model, old

FLAGS = [f"--{key}={str(value).lower()}" for key, value in TINY.items()]
FLAGS += ["--train.previews=0", "--sample.count=0", "--train.batch=4", "--train.held_out=4", "--device", "cpu"]
PLANTED = '__attribute__((constructor)) static void f(void) { FILE *x = fopen("ran", "w"); if (x) fclose(x); }'


def ending(outcome: Outcome) -> str:
    """How a command ended, in a few words."""
    if outcome.late:
        return "does not end"
    code = f"signal {-outcome.code}" if outcome.code < 0 else f"exit code {outcome.code}"
    lines = outcome.err.strip().splitlines() or [""]
    return f"{code}, {'traceback, ' if 'Traceback' in outcome.err else ''}{lines[-1][:90]!r}"


def train(folder: Path, steps: int, kernel: str = "0") -> Outcome:
    """A tiny run in ``folder``/run."""
    words = ("train", "digits", "--steps", str(steps), "--out", "run", *FLAGS)
    return Child(lambda: old("cli").main(list(words)), folder, Limits(120), lambda: set_kernel(kernel)).wait()


def set_kernel(switch: str) -> None:
    """The C kernel of version 0.1 on (1) or off (0)."""
    os.environ["FROMNOISE_NATIVE"] = switch


def write_model(path: Path, changes: dict[str, Any], factor: float = 1.0) -> None:
    """A tiny model whose header has other values of the recipe, and whose weights are multiplied."""
    made, checkpoint = model(sample__steps=2), old("checkpoint")
    header = {"kind": "model", "progress": {}} | checkpoint.describe(made.recipe, made.facts)
    for key, value in changes.items():
        section, name = key.split(".")
        header["recipe"][section][name] = value
    weights = {name: t * factor if t.is_floating_point() else t for name, t in made.denoiser.state_dict().items()}
    checkpoint.write(path, weights, header)


def three_images(folder: Path) -> Path:
    """A folder of three images."""
    images = folder / "images"
    images.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(images / f"{i}.png")
    return images


def load(path: Path) -> Any:
    """The data of a SPEC."""
    return old("data").load(str(path))


def kernel_in_cache(folder: Path) -> tuple[Path, Callable[[], Outcome]]:
    """The compiled kernel in a cache, and how to load it in a new process."""
    build = old("nets.native.build")
    (source,) = Path(build.__file__).parent.glob("*.c")

    def prepare() -> None:
        set_kernel("1")
        os.environ["FROMNOISE_CACHE"] = str(folder / "cache")

    def action() -> int:
        print("loaded" if build.library(source.stem) is not None else "no library")
        return 0

    def load_kernel() -> Outcome:
        return Child(action, folder, Limits(120), prepare).wait()

    load_kernel()
    (library,) = (folder / "cache").rglob("*.so")
    return library, load_kernel


@item("C1", "a library planted in the kernel's cache, a folder of mode 0777")
def planted_library(folder: Path) -> Finding:
    """Whether its constructor runs."""
    library, load_kernel = kernel_in_cache(folder)
    (folder / "x.c").write_text(f"#include <stdio.h>\n{PLANTED}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "x.c", "-o", "x.so"], cwd=folder, check=True)
    shutil.copyfile(folder / "x.so", library)
    library.parent.chmod(0o777)
    load_kernel()
    return (folder / "ran").exists(), "its code ran" if (folder / "ran").exists() else "it was not loaded"


@item("C2", "a truncated kernel, and a text in its place")
def damaged_kernel(folder: Path) -> Finding:
    """How loading ends."""
    library, load_kernel = kernel_in_cache(folder)
    os.truncate(library, library.stat().st_size // 2)
    truncated = load_kernel()
    library.write_text("not a library\n")
    text = [load_kernel().out.strip() for _ in range(2)]
    return truncated.code < 0 and text == ["no library"] * 2, f"{ending(truncated)}; text: {', then '.join(text)}"


@item("C3", "sample, network.width 8192 in the header, 1 GB of memory")
def hostile_header(folder: Path) -> Finding:
    """Whether one line names the file."""
    write_model(folder / "m.safetensors", {"network.width": 8192})
    limits = Limits(60, 30, memory_mb=1024)
    outcome = run(("sample", "m.safetensors", "-n", "1", "--out", "x.png", "--device", "cpu"), folder, limits)
    return "m.safetensors" not in outcome.message, ending(outcome)


@item("C4", "doctor on a run with the line [1, 2] in reports.jsonl; reports after the line {bad")
def bad_line(folder: Path) -> Finding:
    """How it ends, and how many reports are read."""
    train(folder, 2)
    reports = folder / "run" / "reports.jsonl"
    lines = reports.read_text()
    reports.write_text("{bad\n" + lines)
    left = len(old("train.folder").RunFolder(folder / "run").read_reports())
    reports.write_text("[1, 2]\n" + lines)
    outcome = run(("doctor", "run", "-n", "0", "--device", "cpu"), folder)
    text = f"{ending(outcome)}; {left} of {len(lines.splitlines())} reports are read"
    return "Traceback" in outcome.err and not left, text


@item("C5", "train in a folder that a kill during the first write left")
def killed_at_the_start(folder: Path) -> Finding:
    """Whether the same command starts."""
    (folder / "run").mkdir()
    (folder / "run" / ".recipe.toml.7.tmp").write_bytes(b"half")
    outcome = train(folder, 1)
    return outcome.code == 2, ending(outcome)


@item("C6", "doctor on a FIFO called images.npz")
def pipe_as_data(folder: Path) -> Finding:
    """Whether it ends within 10 seconds."""
    os.mkfifo(folder / "images.npz")
    outcome = run(("doctor", "images.npz"), folder, Limits(10))
    return outcome.late, ending(outcome)


@item("C7", "an IDX file of 0.3 MB that unpacks to 256 MB; a labels.csv that is /dev/zero, 1 GB of memory")
def unbounded_reading(folder: Path) -> Finding:
    """Memory, and how it ends."""
    with gzip.open(folder / "x-images-idx3-ubyte.gz", "wb", 1) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, 2**18, 32, 32))
        for _ in range(256):
            file.write(bytes(2**20))
    read_idx = old("data.arrays").read_idx
    bomb = Child(lambda: read_idx(folder / "x-images-idx3-ubyte.gz") is None, folder).wait()
    (three_images(folder) / "labels.csv").symlink_to("/dev/zero")
    endless = run(("doctor", "images"), folder, Limits(60, 30, memory_mb=1024))
    fault = bomb.memory_mb > 256 and "labels.csv" not in endless.message
    return fault, f"read whole, {bomb.memory_mb:.0f} MB; {ending(endless)}"


@item("C8", "a run that goes on without the C kernel")
def resumed_without_kernel(folder: Path) -> Finding:
    """What is said of it."""
    train(folder, 2, "1")
    outcome = train(folder, 3, "0")
    said = [line for line in outcome.err.splitlines() if "kernel" in line or "bit for bit" in line]
    return outcome.code == 0 and not said, said[0] if said else "exit code 0, nothing is said"


@item("C9", "train with another budget into a run that another process trains")
def folder_in_use(folder: Path) -> Finding:
    """Whether its recipe.toml changes."""
    folders, files = old("train.folder"), old("recipe.files")
    first = folders.RunFolder(folder / "run")
    first.open(files.load("digits", TINY | {"train.steps": 5}))
    before = (folder / "run" / "recipe.toml").read_text()
    with contextlib.suppress(old("errors").UserError):
        folders.RunFolder(folder / "run").open(files.load("digits", TINY | {"train.steps": 77}))
    changed = (folder / "run" / "recipe.toml").read_text() != before
    return changed, "refused, but recipe.toml is rewritten" if changed else "refused"


@item("C10", "the folders of two evaluations at once")
def evaluations_at_once(folder: Path) -> Finding:
    """Whether they differ."""
    (folder / "model.safetensors").touch()
    one, two = (old("cli.evaluate")._free([str(folder)]).name for _ in range(2))
    return one == two, f"{one} and {two}"


@item("C11", "a parquet file with the path of an image elsewhere")
def paths_in_parquet(folder: Path) -> Finding:
    """Whether that image is read."""
    import pyarrow
    import pyarrow.parquet

    (folder / "set").mkdir()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(secret := folder / "secret.png")
    rows = [{"bytes": None, "path": str(secret)}] * 3
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), folder / "set" / "x.parquet")
    try:
        value = int(load(folder / "set" / "x.parquet").train.get(torch.tensor([0])).flatten()[0])
    except old("errors").UserError as error:
        return False, str(error)
    return value == 77, "the image is read"


@item("C12", "train --dry-run with a file name that is not UTF-8, images not held in memory")
def names_that_are_not_utf8(folder: Path) -> Finding:
    """How it ends."""
    images = three_images(folder)
    os.rename(images / "2.png", os.fsencode(images) + b"/\xff.png")
    words = ("train", "images", "--data", "images", "--data.memory_gb=1e-9", "--steps", "2", "--dry-run", *FLAGS)
    outcome = run(words, folder)
    return "Traceback" in outcome.err, ending(outcome)


@item("C13", "sample of a model whose weights are NaN")
def weights_of_nan(folder: Path) -> Finding:
    """Exit code and picture."""
    write_model(folder / "m.safetensors", {}, float("nan"))
    outcome = run(("sample", "m.safetensors", "-n", "2", "--out", "x.png", "--device", "cpu"), folder)
    wrote = (folder / "x.png").exists()
    return outcome.code == 0 and wrote, f"exit code {outcome.code}, {'a' if wrote else 'no'} picture is written"


@item("C14", "train on in a run with one bad byte in recipe.toml")
def damaged_recipe(folder: Path) -> Finding:
    """How it ends."""
    train(folder, 2)
    recipe = folder / "run" / "recipe.toml"
    recipe.write_bytes(b"\xff" + recipe.read_bytes())
    outcome = train(folder, 3)
    return outcome.code != 0, ending(outcome)


@item("C15", "what CHANGELOG.md says of several processes")
def weights_of_processes(folder: Path) -> Finding:
    """The sentence."""
    text = (Path(old("errors").__file__).parents[2] / "CHANGELOG.md").read_text()
    sentence = "gives the same weights on any number of processes"
    return sentence in text, f"'{sentence}'"
