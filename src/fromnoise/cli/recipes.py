"""``fromnoise recipes``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fromnoise.config import Recipe

EXAMPLE_SHAPE = (3, 64, 64)
"""(C, H, W) for which parameters are counted if the recipe does not determine the data."""

HELP = "list the recipes: data, size, parameters, expected cost and quality"
EPILOG = "example:\n  fromnoise recipes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    import json
    from pathlib import Path

    from fromnoise import config as recipes
    from fromnoise.utils.files import check_file, write_atomic

    if args.json:
        check_file(Path(args.json), ".json")
    rows = [_row(recipes.load(name)) for name in recipes.names()]
    for r in rows:
        print(f"{r['name']:15} {r['data']:18} {r['size']:>12}  {r['parameters']:>11,} parameters  {r['budget']}")
        for line in (r["about"], f"cost: {r['cost']}", f"quality: {r['quality']}"):
            print(f"{'':15} {line}")
    if args.json:
        write_atomic(Path(args.json), json.dumps(rows, indent=1).encode())
    return 0


def _row(recipe: Recipe) -> dict[str, object]:
    """What is printed of a recipe."""
    from fromnoise.config import BUDGETS
    from fromnoise.config.recipe_data import declared_info
    from fromnoise.data.dataset_info import DatasetInfo
    from fromnoise.model import build_trainable

    info = declared_info(recipe)
    shape = "x".join(map(str, (info.shape if info else EXAMPLE_SHAPE)))
    model = build_trainable(recipe, info or DatasetInfo(EXAMPLE_SHAPE), device="meta")
    budget = next(f"{getattr(recipe.train, b):,g} {b}" for b in BUDGETS if getattr(recipe.train, b) is not None)
    return {
        "name": recipe.name,
        "about": recipe.about,
        "data": recipe.data.source or "your images",
        "size": shape if info else f"e.g. {shape}",
        "parameters": model.parameters,
        "budget": budget,
        "cost": recipe.cost or "not measured yet",
        "quality": recipe.quality or "not measured yet",
    }
