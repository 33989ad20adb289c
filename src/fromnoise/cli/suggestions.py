"""What to type instead of a wrong verb, flag or argument."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

OTHER_VERBS = {
    "fit": "train",
    "resume": "train",
    "finetune": "train",
    "generate": "sample",
    "inference": "sample",
    "infer": "sample",
    "predict": "sample",
    "test": "evaluate",
    "validate": "evaluate",
    "metrics": "evaluate",
    "fid": "evaluate",
    "compare": "evaluate",
    "distil": "distill",
    "consistency": "distill",
    "nll": "bits",
    "likelihood": "bits",
    "inpaint": "edit inpaint",
    "outpaint": "edit outpaint",
    "restore": "edit restore",
    "superres": "edit restore",
    "upscale": "edit restore",
    "vary": "edit vary",
    "img2img": "edit vary",
    "interpolate": "edit interpolate",
    "convert": "import",
    "upload": "push",
    "publish": "push",
    "push_to_hub": "push",
    "list": "recipes",
    "check": "doctor",
    "plot": "show",
    "help": "--help",
    "version": "--version",
}
"""Verbs of other programs, and ours for them."""

OTHER_FLAGS = {
    "bs": ("--batch",),
    "max_train_steps": ("--steps",),
    "max_steps": ("--steps",),
    "num_steps": ("--steps",),
    "n_iter": ("--steps",),
    "iterations": ("--steps",),
    "iters": ("--steps",),
    "num_inference_steps": ("--steps",),
    "sampling_steps": ("--steps",),
    "ddim_steps": ("--steps",),
    "nfe": ("--steps",),
    "num_epochs": ("--epochs",),
    "num_train_epochs": ("--epochs",),
    "n": ("-n", "use --steps N for the budget, or a data SPEC with fewer images"),
    "num_samples": ("-n",),
    "n_samples": ("-n",),
    "num_images": ("-n",),
    "samples": ("-n",),
    "count": ("-n",),
    "k": ("-q",),
    "clusters": ("-q",),
    "n_clusters": ("-q",),
    "num_clusters": ("-q",),
    "guidance_scale": ("--guidance",),
    "cfg_scale": ("--guidance",),
    "cfg": ("--guidance",),
    "rule": ("--sampler",),
    "method": ("--sampler",),
    "solver": ("--sampler",),
    "scheduler": ("--sampler", "--diffusion.schedule"),
    "sampler": ("--sample.sampler",),
    "class": ("--label",),
    "classes": ("--label",),
    "class_labels": ("--label",),
    "y": ("--label",),
    "prompt": ("models are conditioned on classes or attributes, not on text: use --label",),
    "o": ("--out",),
    "output": ("--out",),
    "output_dir": ("--out",),
    "output_path": ("--out",),
    "outdir": ("--out",),
    "out_dir": ("--out",),
    "logdir": ("--out",),
    "log_dir": ("--out",),
    "save_dir": ("--out",),
    "results_folder": ("--out",),
    "dataset": ("--data",),
    "dataset_name": ("--data",),
    "train_data_dir": ("--data",),
    "data_dir": ("--data",),
    "data_path": ("--data",),
    "reference": ("--against",),
    "real": ("--against",),
    "ref": ("--against",),
    "metrics": ("all metrics are measured: use --features inception for FID and KID",),
    "animation": ("--gif",),
    "strength": ("--depth",),
    "input": ("--image", "--data"),
    "mask_image": ("--mask",),
    "format": ("--to",),
    "to": ("use --out",),
    "mixed_precision": ("--precision",),
    "dtype": ("--precision",),
    "fp16": ("use --precision bf16",),
    "bf16": ("use --precision bf16",),
    "amp": ("use --precision bf16",),
    "cpu": ("use --device cpu",),
    "cuda": ("use --device cuda",),
    "gpu": ("--device",),
    "gpus": ("use torchrun --nproc_per_node N -m fromnoise train for several GPUs",),
    "num_gpus": ("use torchrun --nproc_per_node N -m fromnoise train for several GPUs",),
    "resume": ("run the same command again, which resumes the run",),
    "resume_from_checkpoint": ("run the same command again, which resumes the run",),
    "config": ("--recipe", "name the file as the recipe: fromnoise train FILE.toml"),
    "ckpt": ("name the model first: fromnoise sample RUN",),
    "checkpoint": ("name the model first: fromnoise sample RUN",),
    "model_path": ("name the model first: fromnoise sample RUN",),
}
"""Flags of other programs without dashes: ours, of which the first that the verb has is named, or advice."""


def unknown_verb(word: str, verbs: Sequence[str]) -> str:
    """The message for a word that is not a verb.

    Args:
        word: as typed.
        verbs: known ones.
    """
    start = f"there is no verb {word!r}"
    if word.lower() in OTHER_VERBS:
        return f"{start}: use fromnoise {OTHER_VERBS[word.lower()]}"
    from fromnoise.utils.model_path import is_recipe

    if is_recipe(word):
        return f"{start}, but a recipe: use fromnoise train {word}"
    if (Path(word) / "model.safetensors").exists():
        return f"{start}, but a run directory: use fromnoise sample {word}"
    near = difflib.get_close_matches(word.lower(), verbs, 1, 0.6)
    if near:
        return f"{start}: did you mean {near[0]}?"
    return f"{start}: choose from {', '.join(verbs)}"


def unknown_subcommand(word: str, known: Sequence[str]) -> str:
    """The message for a word that is none of the subcommands of a verb."""
    near = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return f"{word!r} is not a subcommand: {hint}"


def unknown_flag(word: str, known: Sequence[str], recipe_keys: bool, command: str) -> str:
    """The message for a flag that a command does not have.

    Args:
        word: as typed, perhaps with "=" and a value.
        known: flags of the command.
        recipe_keys: whether recipe keys are flags of the command.
        command: its name.
    """
    flag = word.split("=")[0]
    name = flag.strip("-").replace("-", "_")
    start = f"there is no flag {flag}"
    for other in OTHER_FLAGS.get(name.lower(), ()):
        if not other.startswith("-"):
            return f"{start}: {other}"
        if other in known or ("." in other and recipe_keys):
            return f"{start}: use {other}"
    if recipe_keys:
        hint = _recipe_key(name, known)
        if hint:
            return f"{start}: {hint}"
    flags = [k for k in known if k not in ("-h", "--help")]
    near = difflib.get_close_matches(flag.lower(), flags, 1, 0.6)
    if near and difflib.SequenceMatcher(None, flag, near[0]).ratio() >= 0.8:
        return f"{start}: did you mean {near[0]}?"
    elsewhere = [path for path, of in _all_flags().items() if flag in of]
    if elsewhere:
        return f"{start} in {command}; it belongs to {', '.join(elsewhere[:4])}"
    return f"{start}: did you mean {near[0]}?" if near else f"{start} in {command}"


def _recipe_key(name: str, known: Sequence[str]) -> str:
    """The recipe key that a flag without a section means, as advice; "" if there is none."""
    from fromnoise import config
    from fromnoise.config.other_names import OTHER_KEYS

    keys = config.keys()
    lower = name.lower()
    found = [key for key in keys if lower in (key.replace(".", "_"), key) or key.split(".")[-1] == lower]
    key = OTHER_KEYS.get(lower) or next(iter(found), None)
    if key is None:
        below = [key for key in keys if key.startswith(f"{lower}.")]
        return f"its keys are flags, such as --{' and --'.join(below[:2])}" if below else ""
    if key in config.component_keys() and "." not in key:
        return f"use --{key}.kind"
    short = f"--{key.removeprefix('train.')}"
    return f"use {short}" if key.startswith("train.") and short in known else f"use --{key}"


def _all_flags() -> dict[str, list[str]]:
    """The flags of every command by its name, without "fromnoise"."""
    from fromnoise.cli import parser

    found: dict[str, list[str]] = {}
    for verb, of in parser()[1].items():
        found[verb] = of.flags()
        found |= {f"{verb} {name}": inner.flags() for name, inner in of.subparsers().items()}
    return found


def unknown_key(dotted: str, verb: str, known: Sequence[str]) -> str:
    """The message for a recipe key where none is taken.

    Args:
        dotted: the key.
        verb: that does not take it.
        known: flags of the verb.
    """
    start = f"{verb} takes no recipe keys such as --{dotted}"
    section, _, key = dotted.partition(".")
    short = "--" + dotted.rpartition(".")[2].replace("_", "-")
    if short in known:
        return f"{start}: use {short}"
    return f"{start}: use --sweep {key}=VALUE" if section == "sample" and "--sweep" in known else start


def unexpected_argument(word: str, takes: Sequence[str], known: Sequence[str], recipe_keys: bool) -> str:
    """The message for a word that a command does not expect.

    Args:
        word: as typed.
        takes: names of the command's positional arguments.
        known: flags of the command.
        recipe_keys: whether recipe keys are flags of the command.
    """
    start = f"unexpected argument {word!r}"
    key, equals, value = word.partition("=")
    if equals and "." in key and recipe_keys:
        return f"{start}: write --{key} {value}"
    if "--data" in known:
        return f"{start}: did you mean --data {word}?"
    return f"{start}: only {' and '.join([*takes, 'flags'])} are expected"
