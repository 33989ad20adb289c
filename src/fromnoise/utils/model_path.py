"""What a path is that should be a run directory or a model file and is not."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fromnoise.utils.errors import UserError

NEEDED = "name a run directory or a .safetensors file of fromnoise train"
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_OTHER = (".txt", ".toml", ".json", ".jsonl", ".csv", ".npz", ".npy", ".zip", ".parquet", ".onnx", ".yaml")


def is_recipe(name: str) -> bool:
    """Whether a recipe of the package has this name."""
    return "/" not in name and (resources.files("fromnoise") / "recipes" / f"{name}.toml").is_file()


def check_model_path(path: Path) -> None:
    """Check that a path without a ``model.safetensors`` in it may be a model file, judging by its name.

    Raises:
        UserError: it does not exist, is a folder, or has the suffix of something else.
    """
    if path.is_dir():
        raise UserError(f"{path} {_folder(path)}")
    if not path.exists():
        raise UserError(f"there is no run directory or model file {str(path)!r}: {_missing(path)}")
    suffix = path.suffix.lower()
    if suffix in _IMAGES + _OTHER:
        run = next((p for p in path.absolute().parents if (p / "model.safetensors").exists()), None)
        kind = "an image" if suffix in _IMAGES else f"a {suffix} file"
        if run is not None:
            raise UserError(f"{path} is {kind}, not a model: name the run directory {_relative(run)}")
        raise UserError(f"{path} is {kind}, not a model: {NEEDED}")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is damaged: it is empty; copy it again, or {NEEDED}")


def _folder(path: Path) -> str:
    names = {p.name for p in path.iterdir()}
    if "model_index.json" in names or "config.json" in names:
        kind = "pipeline" if "model_index.json" in names else "model"
        return f"is a diffusers {kind}: convert it with fromnoise import {path} --out runs/NAME"
    run = next((p for p in path.absolute().parents if (p / "model.safetensors").exists()), None)
    if run is not None:
        return f"is a folder inside the run directory {_relative(run)}: name that"
    if "recipe.toml" in names:
        return "is a run directory without a model.safetensors yet: train for longer with fromnoise train"
    holds = "images, " if any(n.lower().endswith(_IMAGES) for n in names) else ""
    return f"holds {holds}no model.safetensors: {NEEDED}"


def _missing(path: Path) -> str:
    near = Path("runs") / path
    if (near / "model.safetensors").exists():
        return f"did you mean {near}?"
    if is_recipe(str(path)):
        return f"fromnoise train {path} makes one in {near}"
    return "fromnoise train makes one in runs/"


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
