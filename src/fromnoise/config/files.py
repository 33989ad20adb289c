"""Recipes from names, files and dotted keys, and back to TOML."""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fromnoise.config.recipe import BUDGETS, Recipe
from fromnoise.config.sections import Part
from fromnoise.utils.errors import UserError

_RECIPES = resources.files("fromnoise") / "recipes"


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(f.name[:-5] for f in _RECIPES.iterdir() if f.name.endswith(".toml"))


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name or TOML file, with overrides.

    Args:
        name: of a recipe, or the path of a file that ends in .toml.
        overrides: values by dotted key, e.g. {"train.lr": 1e-4}. A budget replaces the recipe's own.

    Raises:
        UserError: no such recipe, unreadable file, unknown key, value out of range.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot read the recipe {name}: {e.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"cannot read the recipe {name}: it is no UTF-8 text") from None
    elif name in names():
        text = (_RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(name, names(), 1, 0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no recipe is called {name!r}: {hint}there are {', '.join(names())}, or name a .toml file")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"{name} is not valid TOML: {e}") from None
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    _unfit(values, overrides or {})
    return parse(values)


def parse(values: dict[str, Any]) -> Recipe:
    """A recipe from nested values.

    Raises:
        UserError: unknown key or value out of range; one line that names it.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as e:
        raise UserError(_explain(e.errors()[0])) from None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"unknown key {key}: {part} is a value, not a part of the recipe")
    if parts == ["train"] and last in BUDGETS:
        for other in BUDGETS:
            values.pop(other, None)
    values[last] = value


def _unfit(values: dict[str, Any], said: dict[str, Any]) -> None:
    """What the user says is not chosen for them."""
    train = values.get("train")
    if isinstance(train, dict) and isinstance(train.get("autosize"), list) and "train.autosize" not in said:
        train["autosize"] = [key for key in train["autosize"] if key not in said]


def change(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with other values by dotted key.

    Raises:
        UserError: as ``parse``.
    """
    plain = recipe.model_dump(exclude_none=True)
    for key, value in values.items():
        _set(plain, key, value)
    return parse(plain)


def _explain(error: Any) -> str:
    where = [str(p) for p in error["loc"]]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, keys(), 1, 0.4) or difflib.get_close_matches(
            where[-1], [k.split(".")[-1] for k in keys()], 1
        )
        return f"unknown key {key} in the recipe" + (f": did you mean {near[0]}?" if near else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {message}" if key else message


def keys() -> dict[str, tuple[str, Any]]:
    """Every dotted key with its help and its default."""
    out: dict[str, tuple[str, Any]] = {}
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, Part):
            for inner, f in type(field.default).model_fields.items():
                out[f"{name}.{inner}"] = (f.description or "", f.default)
        else:
            out[name] = (field.description or "", field.default)
    return out


def difference(a: Recipe, b: Recipe, ignore: tuple[str, ...] = ()) -> list[str]:
    """The dotted keys in which two recipes differ, each with both values."""
    return [
        f"{key} is {get(a, key)!r} there and {get(b, key)!r} here"
        for key in keys()
        if key not in ignore and get(a, key) != get(b, key)
    ]


def get(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every key written out; keys that are left out have no value."""
    plain = recipe.model_dump(mode="json", exclude_none=True)
    lines = [f"{k} = {_literal(v)}" for k, v in plain.items() if not isinstance(v, dict)]
    for part, values in plain.items():
        if isinstance(values, dict):
            lines += ["", f"[{part}]", *(f"{k} = {_literal(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(
            _ESCAPES.get(c, c) if c >= " " and c != "\x7f" else _ESCAPES.get(c, f"\\u{ord(c):04x}") for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_literal(v) for v in value) + "]"
    return repr(value)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
