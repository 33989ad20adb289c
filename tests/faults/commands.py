"""Mostly valid command lines: real flags of every verb and real keys of recipes, some with extreme or odd values."""

from __future__ import annotations

import argparse
import random

from cases import Bench, Case
from materials import NETWORK, train_words

SAMPLED = ("--device", "cpu", "--steps", "2")
BASES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("sample", "run", "-n", "2", *SAMPLED, "--out", "o.png"), ("run",)),
    (("sample", "labelled", "-n", "2", "--label", "1", *SAMPLED, "--out", "o.npz"), ("labelled",)),
    (("sample", "run/model.safetensors", "-n", "2", *SAMPLED, "--out", "o"), ("run",)),
    (("train", "recipe.toml", "--dry-run", "--device", "cpu"), ("recipe.toml", "pics.npz")),
    (("train", "digits", "--data", "folder", *NETWORK, "--dry-run", "--device", "cpu"), ("folder",)),
    ((*train_words(1, "out")[:-2], "--device", "cpu"), ("pics.npz",)),
    (("show", "data", "folder", "--out", "o.png"), ("folder",)),
    (("show", "forward", "run", "--out", "o.png"), ("run", "pics.npz")),
    (("show", "progressive", "run", *SAMPLED, "--out", "o.png"), ("run",)),
    (("show", "shared", "run", *SAMPLED, "--out", "o.png"), ("run",)),
    (("edit", "inpaint", "run", "--image", "picture.png", "--mask", "mask.png", *SAMPLED, "--out", "o.png"), ("run",)),
    (("edit", "outpaint", "run", "--image", "small.png", *SAMPLED, "--out", "o.png"), ("run",)),
    (("edit", "restore", "run", "--image", "small.png", "--upscale", "2", *SAMPLED, "--out", "o.png"), ("run",)),
    (("edit", "vary", "labelled", "--image", "picture.png", *SAMPLED, "--out", "o.png"), ("labelled",)),
    (
        ("edit", "interpolate", "run", "--image", "picture.png", "--to", "mask.png", *SAMPLED, "--out", "o.png"),
        ("run",),
    ),
    (("bits", "run", "-n", "4", "--flow", "2", "--flow-steps", "2", "--bound-steps", "4", "--device", "cpu"), ("run",)),
    (("doctor", "run", "-n", "0", "--device", "cpu"), ("run",)),
    (("doctor", "folder"), ("folder",)),
    (("evaluate", "run", "-n", "20", "--features", "pixels", "--bits", "0", "--device", "cpu"), ("run",)),
    (("assign", "labelled", "pics.npz", "-n", "4", "--device", "cpu"), ("labelled",)),
    (("guide", "labelled", "--out", "guide.safetensors", "--steps", "1", "--batch", "8"), ("labelled",)),
    (("cluster", "pics.npz", "-q", "2", "--steps", "1", *NETWORK, "--device", "cpu", "--out", "c"), ("pics.npz",)),
    (("recipes",), ()),
)
"""A valid command of each kind with the materials that it uses."""
INPUTS = ("pics.npz", "picture.png", "mask.png", "small.png", "labels.csv")

WHOLE = ("1", "2", "3", "8", "0", "-1", "16384", str(2**31 - 1), str(2**31), str(2**63 - 1), str(2**63), "9" * 400)
REAL = (
    "0.5",
    "1",
    "2",
    "0",
    "-1",
    "1e-300",
    "1e300",
    "nan",
    "inf",
    "-inf",
    "1e-9",
    "100",
    "0.999999999",
    "1,2",
    "0.2,0.8",
)
TEXT = (
    "",
    " ",
    "x",
    "all",
    "1.5",
    "1e3",
    "0x10",
    "٣",
    "²",
    "１２",
    "é",
    "a\nb",
    "\x1b[31m",
    "a" * 3000,
    "true",
    "none",
    "[1, 2]",
)
PATHS = (
    *(
        "new.png",
        "new.npz",
        "new.json",
        "new",
        "no/such/x.png",
        "",
        ".",
        "..",
        "out.txt",
        "é.png",
        "a\nb.png",
        "\udcff.png",
    ),
    *("run", "run/model.safetensors", "folder", "picture.png", "pics.npz", "labels.csv", "x" * 300 + ".png", "-.png"),
)
SPECS = ("digits", "digits:test", "digits:", ":train", "digits:x", "folder", "pics.npz:all", "hub:", "nothing", "mnist")
DEVICES = ("cpu", "cpu:0", "cuda", "cuda:99", "mps", "meta", "gpu", "")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "double", "")
DANGEROUS = ("--minutes", "--flow", "-h", "--help", "--compile")
"""Flags that only take long, print help, or compile."""


def command(bench: Bench, seed: int, number: int) -> Case:
    """A valid command with one to three more flags or keys."""
    from fromnoise.cli import RECIPE_VERBS

    rng = random.Random(f"command/{seed}/{number}")
    words, uses = BASES[number % len(BASES)]
    flags = _flags(words)
    words = list(words)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        chance = rng.random()
        if words[0] in RECIPE_VERBS and chance < 0.6:
            words += _key(rng)
        elif chance < 0.93 and flags:
            words += _flag(rng, rng.choice(flags))
        elif chance < 0.96:
            words[rng.randrange(1, len(words)) if len(words) > 1 else 0] = rng.choice((*TEXT, *PATHS))
        else:
            words += rng.choice((["--plugin", "no.such"], ["--plugin", ""], ["--verbose"], ["extra"], ["--"], ["-1"]))
    parts = tuple(dict.fromkeys((*uses, *INPUTS)))
    return Case("command", number, tuple(words), uses=parts)


def _flags(words: tuple[str, ...]) -> list[argparse.Action]:
    """The flags of the verb, or of its figure or edit."""
    from fromnoise.cli import parser

    found = parser(words[0])[1][words[0]]
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = action.choices[words[1]]
    return [a for a in found._actions if a.option_strings and not set(a.option_strings) & set(DANGEROUS)]


def _flag(rng: random.Random, action: argparse.Action) -> list[str]:
    """A flag with a value that fits, or is extreme, or is odd."""
    flag = rng.choice(action.option_strings)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return [flag] if rng.random() < 0.9 else [f"{flag}={rng.choice(TEXT)}"]
    value = _value(rng, flag, action)
    return [f"{flag}={value}"] if rng.random() < 0.3 or value.startswith("-") else [flag, value]


def _value(rng: random.Random, flag: str, action: argparse.Action) -> str:
    from fromnoise import registry

    if rng.random() < 0.1:
        return rng.choice((*TEXT, *PATHS))
    families = {"--sampler": "sampler", "--method": "inverse_solver", "--guidance-method": "guidance"}
    known = {"--device": DEVICES, "--precision": PRECISIONS, "--data": SPECS, "--against": SPECS, "--given": PATHS}
    if flag in families:
        return rng.choice((*registry.names(families[flag]), *TEXT[:3]))
    if flag in known:
        return rng.choice(known[flag])
    ordinary = rng.random() < 0.4
    if action.type is int or flag in ("--steps", "--epochs", "--images", "--seed", "--batch", "--size"):
        return rng.choice(WHOLE[:4] if ordinary else WHOLE)
    if action.type is float:
        return rng.choice(REAL[:3] if ordinary else REAL)
    if action.type is not None and "Path" in getattr(action.type, "__name__", ""):
        return rng.choice(PATHS)
    return rng.choice((*WHOLE, *REAL, *TEXT, *PATHS))


def _key(rng: random.Random) -> list[str]:
    """A key of a recipe with its default, or another value of its kind, or an odd one."""
    from fromnoise.config import keys

    key, (_, default) = rng.choice(sorted(keys().items()))
    if key in ("train.minutes", "evaluation.times"):  # these only take long
        key, default = "train.lr", 1e-3
    if isinstance(default, bool):
        values: tuple[str, ...] = ("true", "false", "1", "maybe")
    elif isinstance(default, int):
        values = WHOLE
    elif isinstance(default, float):
        values = REAL
    elif isinstance(default, (list, tuple)):
        values = ("[]", "[1]", "[1, 2]", "[0]", "[-1]", "[nan]", "[[1]]", '["x"]', "[" + "1, " * 2000 + "1]", "1,2")
    else:
        values = (*WHOLE, *REAL, *TEXT)
    value = rng.choice(TEXT) if rng.random() < 0.1 else rng.choice(values[:4] if rng.random() < 0.4 else values)
    return [f"--{key}={value}"] if rng.random() < 0.5 else [f"--{key}", value]
