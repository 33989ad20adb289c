"""Hooks of the documentation build: the reference is generated, and the finished site must work without a network.

Reference pages are made from the source at each build and are not kept: one page a package (mkdocstrings reads the
docstrings), the registered components with their options, the recipes, their keys, and the command line.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fromnoise"
FAMILIES = {
    "schedule": "Noise schedules",
    "target": "Targets of the network",
    "noise_conditioning": "Time inputs of the network",
    "distance": "Distances of the loss",
    "weighting": "Loss weightings",
    "objective": "Training objectives",
    "time_sampler": "Time samplers",
    "sampler": "Samplers",
    "grid": "Time grids",
    "guidance": "Guidance",
    "inverse_solver": "Solvers of inverse problems",
    "network": "Networks",
    "augmentation": "Augmentation of training images",
    "optimizer": "Optimizers",
    "tracker": "Trackers",
    "dataset": "Named data sets",
    "format": "File formats",
    "metric": "Metrics",
    "importer": "Formats of import",
    "exporter": "Formats of export",
}
"""Titles; a family without one gets its own name."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation of the reference."""
    pages = [
        {"Overview": "reference/index.md"},
        {"Components and their options": "reference/components.md"},
        {"Recipes": "reference/recipes.md"},
        {"Recipe keys": "reference/recipe-keys.md"},
        {"Command line": "reference/command-line.md"},
        *({package: f"reference/{package}.md"} for package in packages()),
    ]
    config.nav = [{"Reference": pages} if "Reference" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    _import_all()
    pages = {
        "index": overview(),
        "components": components(),
        "recipes": recipes(),
        "recipe-keys": recipe_keys(),
        "command-line": command_line(),
    }
    pages |= {package: package_page(package) for package in packages()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from the network."""
    loads = re.compile(r"<(?:script|img|iframe|link)[^>]+?(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+[^>]*>")
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        found = [tag for tag in loads.findall(page.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        if found:
            raise PluginError(f"{page} loads from the network: {found[0]}")


def packages() -> list[str]:
    """The packages of fromnoise, and its modules that are in no package."""
    found = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists() and p.name != "recipes"}
    found |= {p.stem for p in SOURCE.glob("*.py") if not p.stem.startswith("__")}
    return ["fromnoise", *sorted(found)]


def modules(package: str) -> list[str]:
    """Dotted names of the modules of a package, itself first."""
    if package == "fromnoise":
        return ["fromnoise"]
    base = SOURCE / package
    if not base.is_dir():
        return [f"fromnoise.{package}"]
    names = []
    for path in sorted(base.rglob("*.py")):
        if not (path.parent / "__init__.py").exists():
            continue  # a program that is copied, no module
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(set(names), key=lambda name: name.split("."))


def package_page(package: str) -> str:
    """A page that mkdocstrings fills."""
    title = package if package == "fromnoise" else f"fromnoise.{package}"
    return f"# {title}\n\n" + "\n".join(f"::: {name}\n" for name in modules(package))


def overview() -> str:
    """What the reference has."""
    lines = [
        "# Reference",
        "",
        "This part is generated from the source at each build.",
        "",
        "- [Components and their options](components.md): everything that is registered, as recipes and flags name it.",
        "- [Recipes](recipes.md): the recipes that come with the package.",
        "- [Recipe keys](recipe-keys.md): every key with its default.",
        "- [Command line](command-line.md): every verb and flag.",
        "",
        "| package | |",
        "|---|---|",
    ]
    for package in packages():
        module = importlib.import_module("fromnoise" if package == "fromnoise" else f"fromnoise.{package}")
        summary = (inspect.getdoc(module) or "").split("\n")[0]
        lines.append(f"| [{module.__name__}]({package}.md) | {_cell(summary)} |")
    return "\n".join(lines) + "\n"


def components() -> str:
    """A section a family, a table of options a component."""
    from fromnoise import registry

    lines = [
        "# Components and their options",
        "",
        'A component stands in a recipe by its name, or as `{kind = "NAME", option = value}`; '
        "on the command line an option is a dotted key. [Plug-ins](../guide/plugins.md) explains how to add one.",
        "",
    ]
    for family in registry.CONTEXT:
        names = registry.names(family)
        lines += [f"## {FAMILIES.get(family, family.replace('_', ' ').capitalize())}", ""]
        if not names:
            lines += ["Nothing is registered.", ""]
        for name in names:
            component = registry.get(family, name)
            path = f"{component.__module__}.{component.__qualname__}"
            lines += [f"### `{name}` {{ #{family}-{name} }}", "", f"{registry.summary(component)} (`{path}`)", ""]
            options = registry.options(family, name)
            if options:
                lines += ["| option | type | default | |", "|---|---|---|---|"]
            for option in options.values():
                default = "required" if option.default is registry.REQUIRED else f"`{_literal(option.default)}`"
                kind = f"`{_type(option.type)}`".replace("|", "\\|")
                lines.append(f"| `{option.name}` | {kind} | {default} | {_cell(option.help)} |")
            lines.append("")
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """The recipes with what is published and what was measured of each."""
    from fromnoise import config

    lines = [
        "# Recipes",
        "",
        "`fromnoise recipes` prints this table, and `fromnoise train RECIPE --dry-run` prints a whole recipe. "
        "[Recipes](../guide/recipes.md) in the guide says where each differs from its source.",
        "",
        "| recipe | | training cost | quality |",
        "|---|---|---|---|",
    ]
    loaded = {name: config.load(name) for name in config.names()}
    for name, recipe in loaded.items():
        lines.append(f"| `{name}` | {_cell(recipe.about)} | {_cell(recipe.cost)} | {_cell(recipe.quality)} |")
    lines += [
        "",
        "## Sampling",
        "",
        "By default, and with `--as-published`: sampler with its options, steps, grid, and whether x0 is clipped.",
        "",
        "| recipe | default | as published |",
        "|---|---|---|",
    ]
    for name, recipe in loaded.items():
        published = getattr(recipe, "published", None)
        lines.append(f"| `{name}` | {_sampling(recipe.sample)} | {_sampling(published) if published else '-'} |")
    return "\n".join(lines) + "\n"


def _sampling(config: Any) -> str:
    """A sampling configuration in one line."""

    def component(value: Any) -> str:
        if value is None:
            return "default"
        given = {k: v for k, v in value.options().items() if v is not None}
        return f"`{value.kind}`" + "".join(f", {k} {_literal(v)}" for k, v in given.items())

    steps = f"{config.steps:,} steps" if config.steps else "all steps"
    return "; ".join(
        [
            component(config.sampler),
            steps,
            f"grid {component(config.grid)}",
            "clipped" if config.clip else "not clipped",
        ]
    )


def recipe_keys() -> str:
    """Every dotted key, a section a part of the recipe."""
    from fromnoise import config

    lines = [
        "# Recipe keys",
        "",
        "On the command line each is a flag: `--train.lr 1e-4`. Keys that name a component take its options as further "
        "keys; see [components](components.md).",
    ]
    part = None
    for key, (help_line, default) in config.keys().items():
        head = key.split(".")[0] if "." in key else "recipe"
        if head != part:
            part = head
            lines += ["", f"## `{part}`", "", "| key | default | |", "|---|---|---|"]
        lines.append(f"| `{key}` | `{_literal(default)}` | {_cell(help_line)} |")
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """Every verb with its flags."""
    from fromnoise import cli

    os.environ["COLUMNS"] = "110"
    lines = ["# Command line", "", "The same text as `fromnoise VERB --help`.", ""]
    for words, parser in _parsers(cli.parser()[0]):
        lines += [f"{'#' * min(2 + max(len(words) - 1, 0), 4)} `{' '.join(['fromnoise', *words])}`", ""]
        if parser.description:
            lines += [_prose(parser.description), ""]
        lines += ["```text", parser.format_usage().strip(), "```", ""]
        rows = [
            f"| {_flag(action)} | {_cell(_help(action))} |"
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction | argparse._VersionAction)
            and action.help != argparse.SUPPRESS
        ]
        if rows:
            lines += ["| argument | |", "|---|---|", *rows, ""]
        if parser.epilog:
            lines += ["```text", parser.epilog.strip(), "```", ""]
    return "\n".join(lines) + "\n"


def _parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The parser of each verb, depth first."""
    if words:
        yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from _parsers(sub, (*words, name))


def _flag(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if not action.option_strings:
        return f"`{metavar or action.dest}`"
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
    value = "" if action.nargs == 0 else f" `{metavar or action.dest.upper()}`"
    return flags + value


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default))
    if action.default in (None, False, argparse.SUPPRESS) or "%(default)" in (action.help or ""):
        return text
    return f"{text} (default: `{action.default}`)" if action.option_strings else text


def _import_all() -> None:
    """Import every module, so that every component is registered."""
    import fromnoise

    for module in pkgutil.walk_packages(fromnoise.__path__, "fromnoise."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _literal(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "":
        return '""' if value == "" else "none"
    return str(value).replace("|", "\\|").replace("`", "'")


def _type(hint: Any) -> str:
    """An annotation as it is written, without the bounds that pydantic adds."""
    if typing.get_origin(hint) is typing.Annotated:
        return _type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(a) for a in typing.get_args(hint))
    if inspect.isclass(hint) and not typing.get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))  # names without their modules


def _cell(text: str) -> str:
    """Text inside of a table: one line, no bars, no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _prose(text: str) -> str:
    return text.replace("<", "&lt;")
