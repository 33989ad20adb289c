"""Recipes from names, files and dotted keys, and back to TOML."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fromnoise import registry
from fromnoise.config.component import Component, OptionError
from fromnoise.config.messages import explain_value, nearest_key
from fromnoise.config.recipe import BUDGETS, Recipe
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line, read_text

MAX_RECIPE = 1 << 20
"""Bytes of a recipe file, at most."""
_RECIPES = resources.files("fromnoise") / "recipes"


def names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(f.name[:-5] for f in _RECIPES.iterdir() if f.name.endswith(".toml"))


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name or TOML file, with overrides.

    Args:
        name: name of a recipe, or path of a file that ends in .toml.
        overrides: values by dotted key, such as {"train.lr": 1e-4}. A budget replaces that of the recipe.

    Raises:
        UserError: no such recipe, unreadable file, unknown key, value out of range.
    """
    if name.endswith(".toml"):
        text = read_text(name, MAX_RECIPE)
    elif name in names():
        text = (_RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise UserError(_unknown_recipe(name))
    values = parse_toml(text, name)
    for key, value in (overrides or {}).items():
        set_value(values, key, value)
    _keep_chosen(values, overrides or {})
    try:
        return parse(values)
    except UserError as error:
        if name.endswith(".toml") and _error_of(parse_toml(text, name)) == str(error):
            raise UserError(f"{name}: {error}") from None
        raise


def _error_of(values: dict[str, Any]) -> str:
    """The message of the error of nested values, or the empty string."""
    try:
        parse(values)
    except UserError as error:
        return str(error)
    return ""


def parse_toml(text: str, name: str | Path) -> dict[str, Any]:
    """Nested values of a TOML text.

    Raises:
        UserError: it is not valid TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{name} is not valid TOML: it is nested too deeply") from None
    except ValueError as e:  # also of a number with thousands of digits
        raise UserError(f"{name} is not valid TOML: {first_line(e)}") from None


def _unknown_recipe(name: str) -> str:
    path = Path(name)
    if (path / "recipe.toml").exists():
        return f"{name} is a run directory: to resume it, use fromnoise train {path / 'recipe.toml'} --out {name}"
    if path.suffix in (".yaml", ".yml", ".json", ".py"):
        return f"{name} is not a recipe: recipes are .toml files; fromnoise train digits --dry-run prints one"
    if path.suffix == ".safetensors":
        return f"{name} is a model, not a recipe: use the recipe.toml of its run directory"
    if path.exists() or name.split(":")[0] in registry.names("dataset"):
        return f"{name} is not a recipe: to train on these images, use fromnoise train images --data {name}"
    near = difflib.get_close_matches(name, names(), 1, 0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no recipe is called {name!r}: {hint}choose from {', '.join(names())}, or name a .toml file"


class MissingComponent(UserError):
    """A recipe names a component that is not registered.

    Attributes:
        component: its family and name; "" if unknown.
    """

    component = ""


def parse(values: dict[str, Any]) -> Recipe:
    """A recipe from nested values.

    Raises:
        MissingComponent: a component is not registered.
        UserError: unknown key or value out of range; the message is one line that names the key.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as e:
        error = e.errors()[0]
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, OptionError) and cause.component:
            missing = MissingComponent(_explain(error))
            missing.component = cause.component
            raise missing from None
        raise UserError(_explain(error)) from None


def component_keys() -> dict[str, Component]:
    """The dotted keys whose values are components."""
    return {key: marker for key, _, marker in _fields(Recipe) if marker is not None}


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, Component | None]]:
    """Dotted key, field and component marker of every key of a section and its sections."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        marker = next((m for m in _metadata(field) if isinstance(m, Component)), None)
        if marker is None and isinstance(field.default, BaseModel):
            yield from _fields(type(field.default), f"{key}.")
        elif name != "published":
            yield key, field, marker


def _metadata(field: Any) -> list[Any]:
    """The metadata of an annotation, also within an optional one."""
    found = list(field.metadata)
    for part in getattr(field.annotation, "__args__", ()):
        found += getattr(part, "__metadata__", ())
    return found


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested values.

    If the value is the name of a component, the options of the previous component that the new one has as well are
    kept. A budget replaces the previous budget.

    Raises:
        UserError: a part of the key is a value, not a section.
    """
    *parts, last = key.split(".")
    components = component_keys()
    if last == "kind" and ".".join(parts) in components:
        *parts, last = parts
    section: dict[str, Any] = values
    path = ""
    for part in parts:
        path = f"{path}.{part}" if path else part
        inner: Any = section.setdefault(part, {})
        if isinstance(inner, str) and path in components:
            inner = section[part] = {"kind": inner}
        if not isinstance(inner, dict):
            raise UserError(f"unknown key {key}: {path} is a value, not a section of the recipe")
        section = inner
    whole = f"{path}.{last}" if path else last
    if path == "train" and last in BUDGETS:
        for other in BUDGETS:
            section.pop(other, None)
    if whole in components and isinstance(value, str):
        marker, former = components[whole], section.get(last)
        if isinstance(former, dict) and value in registry.names(marker.family):
            kept = registry.options(marker.family, value)
            value = {"kind": value} | {k: v for k, v in former.items() if k in kept}
    section[last] = value


def _keep_chosen(values: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Remove the keys that the user sets from ``train.autosize``."""
    train = values.get("train")
    if isinstance(train, dict) and isinstance(train.get("autosize"), list) and "train.autosize" not in chosen:
        train["autosize"] = [key for key in train["autosize"] if key not in chosen]


def change(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """A copy of a recipe with other values, by dotted key.

    Raises:
        UserError: as ``parse``.
    """
    plain = recipe.model_dump(exclude_none=True)
    for key, value in values.items():
        set_value(plain, key, value)
    return parse(plain)


def _explain(error: Any) -> str:
    """A validation error in one line."""
    where = [str(p) for p in error["loc"]]
    key, value, message = ".".join(where), error["input"], explain_value(error)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):
        key, value, message = ".".join([key, cause.key] if cause.key else [key]), cause.value, str(cause)
        if cause.unknown:
            return f"unknown key {key} in the recipe: {message}"
    if error["type"] == "extra_forbidden":
        if isinstance(value, dict) and len(value) == 1:  # an unknown section
            key = f"{key}.{next(iter(value))}"
        near = nearest_key(key, keys())
        return f"unknown key {key} in the recipe: " + (
            f"did you mean {near}?" if near else f"its sections are {', '.join(Recipe.model_fields)}"
        )
    return f"{key} = {value!r}: {message}" if key else message


def keys() -> dict[str, tuple[str, Any]]:
    """Every dotted key with its help and its default; the options of components below the components' keys."""
    out: dict[str, tuple[str, Any]] = {}
    for key, field, marker in _fields(Recipe):
        if marker is None:
            out[key] = (field.description or "", field.default)
            continue
        known = registry.names(marker.family)
        out[key] = (f"{marker.description}: {', '.join(known)}", field.default)
        for name in known:
            for option in registry.options(marker.family, name).values():
                default = None if option.default is registry.REQUIRED else option.default
                out.setdefault(f"{key}.{option.name}", (f"{name}: {option.help}", default))
    return out


def difference(a: Recipe, b: Recipe, ignore: tuple[str, ...] = ()) -> list[str]:
    """The dotted keys whose values differ between two recipes, each with both values."""
    before, after = flat(a), flat(b)
    return [
        f"{key} is {before.get(key)!r} there and {after.get(key)!r} here"
        for key in dict.fromkeys([*before, *after])
        if key not in ignore and before.get(key) != after.get(key)
    ]


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe by dotted key."""
    return _flat(recipe.model_dump())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def get(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key; None where the component has no such option."""
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def to_toml(recipe: Recipe) -> str:
    """A recipe as TOML with all keys, except those whose value is None."""
    plain = recipe.model_dump(mode="json", exclude_none=True)
    return "\n".join(_table(plain, "")).lstrip("\n") + "\n"


def _table(values: dict[str, Any], name: str) -> Iterator[str]:
    """The lines of a table: its values, with components without options as their name, then its sub-tables."""
    plain = {k: v["kind"] if isinstance(v, dict) and set(v) == {"kind"} else v for k, v in values.items()}
    if name:
        yield from ("", f"[{name}]")
    yield from (f"{k} = {_literal(v)}" for k, v in plain.items() if not isinstance(v, dict))
    for key, inner in plain.items():
        if isinstance(inner, dict):
            yield from _table(inner, f"{name}.{key}" if name else key)


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
