"""Generators of cases: damaged files, headers with valid digests, command lines. Case i depends on (seed, i) alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

from cases import Bench, Case, Generator
from commands import command
from materials import train_words, valid_files
from mutate import ODD_CONTENT, mutate_bytes, mutate_nested, mutate_text

PAIRS = {"train-images-idx3-ubyte": "train-labels-idx1-ubyte"}
"""Files that are opened together with another one."""


def _random(kind: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{kind}/{seed}/{number}")


def _data_file(kind: str, name: str) -> Generator:
    """A generator of damaged files of a data format, which ``show data`` opens."""

    def generate(bench: Bench, seed: int, number: int) -> Case:
        rng = _random(kind, seed, number)
        files = valid_files()
        odd = ODD_CONTENT.get(name) if number % 2 else None
        damaged = odd(rng, files[name]) if odd else mutate_bytes(rng, files[name])
        written = {name: damaged}
        if name in PAIRS:
            written[PAIRS[name]] = files[PAIRS[name]]
            if rng.random() < 0.3:
                written = {name: files[name], PAIRS[name]: mutate_bytes(rng, files[PAIRS[name]])}
        words = ("show", "data", name, "-n", "4", "--out", "o.png")
        return Case(kind, number, words, written, names=tuple(written))

    return generate


def _picture(kind: str, name: str) -> Generator:
    """A generator of damaged pictures: among the images of a folder, or as the image or the mask of an edit."""

    def generate(bench: Bench, seed: int, number: int) -> Case:
        rng = _random(kind, seed, number)
        odd = ODD_CONTENT.get(name) if number % 2 else None
        valid = valid_files()[name]
        damaged = odd(rng, valid) if odd else mutate_bytes(rng, valid)
        if number % 3:
            words = ("show", "data", "folder", "-n", "4", "--size", "8", "--out", "o.png")
            return Case(kind, number, words, {f"folder/{name}": damaged}, ("folder",), (name,))
        edit = ("edit", "inpaint", "run", "--out", "o.png", "--steps", "2", "--method", "ddnm", "--device", "cpu")
        inputs = (
            [("--image", name), ("--mask", "mask.png")]
            if number % 2
            else [("--image", "picture.png"), ("--mask", name)]
        )
        words = (*edit, *(w for pair in inputs for w in pair))
        return Case(kind, number, words, {name: damaged}, ("run", "picture.png", "mask.png"), (name,))

    return generate


def labels_csv(bench: Bench, seed: int, number: int) -> Case:
    """A damaged table of labels, beside images or of known clusters."""
    rng = _random("csv", seed, number)
    name = "given.csv" if number % 10 == 9 else "labels.csv"
    damaged = mutate_text(rng, valid_files()[name].decode())
    if name == "given.csv":
        words = ("cluster", "pics.npz", "-q", "2", "--steps", "1", "--given", name, "--out", "c", "--device", "cpu")
        small = ("--network.width", "8", "--network.multipliers", "[1]", "--clustering.rounds", "1", "--batch", "8")
        return Case("csv", number, (*words, *small[:4]), {name: damaged}, ("pics.npz",), (name,))
    words = ("show", "data", "folder", "-n", "4", "--out", "o.png")
    return Case("csv", number, words, {f"folder/{name}": damaged}, ("folder",), (name, "folder"))


def recipe_toml(bench: Bench, seed: int, number: int) -> Case:
    """A damaged recipe file."""
    rng = _random("toml", seed, number)
    text = (bench.materials / "recipe.toml").read_text()
    if number % 2:
        from fromnoise.config.files import _table, parse_toml

        damaged = ("\n".join(_table(mutate_nested(rng, parse_toml(text, "recipe")), "")) + "\n").encode(
            errors="replace"
        )
    else:
        damaged = mutate_text(rng, text)
    words = ("train", "x.toml", "--dry-run", "--device", "cpu")
    if number % 4 == 3:
        words = ("show", "forward", "x.toml", "--out", "o.png")
    return Case("toml", number, words, {"x.toml": damaged}, ("pics.npz",))


def reports_jsonl(bench: Bench, seed: int, number: int) -> Case:
    """Damaged reports or a damaged log of a run, which is examined or resumed."""
    rng = _random("jsonl", seed, number)
    text = (bench.materials / "run" / "reports.jsonl").read_text()
    if number % 2:
        lines = [json.loads(line) for line in text.splitlines()]
        at = rng.randrange(len(lines))
        lines[at] = mutate_nested(rng, lines[at])
        damaged = "".join(json.dumps(line) + "\n" for line in lines).encode()
    else:
        damaged = mutate_text(rng, text)
    files = {"run/reports.jsonl": damaged}
    if number % 10:
        return Case("jsonl", number, ("doctor", "run", "-n", "0", "--device", "cpu"), files, ("run", "pics.npz"))
    words = train_words(6, "run")
    return Case("jsonl", number, words, files, ("run", "pics.npz"), same=("run/model.safetensors",))


def checkpoint_bytes(bench: Bench, seed: int, number: int) -> Case:
    """A damaged model, which must be refused, or a damaged training state, in place of which the one before is used."""
    rng = _random("safetensors", seed, number)
    state = number % 10 == 0
    name = "run/state/000000004.safetensors" if state else "run/model.safetensors"
    files = {name: mutate_bytes(rng, (bench.materials / name).read_bytes())}
    if state:
        words = train_words(6, "run")
        return Case("safetensors", number, words, files, ("run", "pics.npz"), same=("run/model.safetensors",))
    words = ("sample", "run", "-n", "1", "--steps", "2", "--out", "o.png", "--device", "cpu")
    return Case("safetensors", number, words, files, ("run",), ("model.safetensors",), ("o.png",))


HEADER_WORDS = (
    ("sample", "m.safetensors", "-n", "1", "--steps", "2", "--out", "o.png"),
    ("show", "progressive", "m.safetensors", "-n", "1", "--steps", "2", "--out", "o.png"),
    ("edit", "vary", "m.safetensors", "--image", "picture.png", "--steps", "2", "--out", "o.png"),
    ("doctor", "m.safetensors", "-n", "0"),
    ("bits", "m.safetensors", "-n", "2", "--bound-steps", "2", "--flow", "0"),
    ("assign", "m.safetensors", "pics.npz", "-n", "2"),
)


def header(bench: Bench, seed: int, number: int) -> Case:
    """A model, or now and then a state, whose header has odd values; its digest is right."""
    from fromnoise import checkpoint

    rng = _random("header", seed, number)
    state = number % 16 == 15
    name = "run/state/000000004.safetensors" if state else f"{'labelled' if number % 2 else 'run'}/model.safetensors"
    tensors, values = checkpoint.read(bench.materials / name)
    path = bench.folder / "written.safetensors"
    checkpoint.write(path, tensors, mutate_nested(rng, values))
    data = path.read_bytes()
    if state:
        files = {name: data}
        return Case("header", number, train_words(6, "run"), files, ("run", "pics.npz"), (Path(name).name, "run"))
    words = (*HEADER_WORDS[rng.randrange(len(HEADER_WORDS))], "--device", "cpu")
    return Case(
        "header", number, words, {"m.safetensors": data}, ("pics.npz", "picture.png"), ("m.safetensors", "data")
    )


FILES: dict[str, Generator] = {
    "png": _picture("png", "x.png"),
    "jpg": _picture("jpg", "x.jpg"),
    "idx": _data_file("idx", "train-images-idx3-ubyte"),
    "idx.gz": _data_file("idx.gz", "train-images-idx3-ubyte.gz"),
    "npy": _data_file("npy", "x.npy"),
    "npz": _data_file("npz", "x.npz"),
    "zip": _data_file("zip", "x.zip"),
    "tar": _data_file("tar", "x.tar"),
    "parquet": _data_file("parquet", "x.parquet"),
    "csv": labels_csv,
    "toml": recipe_toml,
    "jsonl": reports_jsonl,
    "safetensors": checkpoint_bytes,
}
"""Generators of damaged files by format."""


def generators() -> dict[str, Generator]:
    """All kinds of cases."""
    return {"header": header, "command": command, **FILES}
