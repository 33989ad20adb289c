"""Names of components, so that one new component is one new file.

    @register("sampler", "my-sampler")
    @dataclass(frozen=True)
    class MySampler(Sampler):
        \"\"\"First line: the help of the component. An Args section: the help of its options.\"\"\"

        strength: float = 0.5

The typed parameters of a component's constructor are its options: the recipe's schema, command-line flags, ``--help``
and tables in the documentation are made from them. Parameters that the package itself supplies (the number of channels
of a network, the schedule of a target) are the context of the family and are no options. A constructor refuses an
option's value with a ``ValueError``.

This module imports the standard library alone, so that every package may import it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

CONTEXT: dict[str, tuple[str, ...]] = {
    "schedule": (),
    "target": ("schedule",),
    "noise_conditioning": ("timesteps",),
    "distance": ("a", "b"),
    "weighting": (),
    "objective": ("distance", "weighting", "schedule", "variance", "base"),
    "time_sampler": ("timesteps",),
    "sampler": ("schedule", "predictor"),
    "grid": ("schedule", "steps"),
    "guidance": ("denoise", "scale", "weak"),
    "inverse_solver": (),
    "network": ("in_channels", "out_channels", "size", "classes", "attributes", "timesteps", "augmentation"),
    "augmentation": (),
    "autoencoder": ("in_channels", "size"),
    "reconstruction": (),
    "optimizer": (),
    "tracker": (),
    "dataset": (),
    "format": (),
    "metric": (),
    "importer": (),
    "exporter": (),
}
"""The families of components, and the constructor parameters of each that are supplied by the package."""

_COMPONENTS: dict[str, dict[str, Callable[..., Any]]] = {family: {} for family in CONTEXT}
REQUIRED = inspect.Parameter.empty
"""The default of an option that has none."""


class UnknownComponent(ValueError):
    """A name under which nothing is registered.

    Attributes:
        component: family and name, for a message.
    """

    def __init__(self, family: str, name: str, known: Iterable[str]) -> None:
        """Name the nearest of the known names, and how to add one."""
        family = family.replace("_", " ")
        super().__init__(
            f"no {family} is called {_shown(name)}{_nearest(name, known)} Choose from {', '.join(known)}, or for one "
            "of your own add --plugin MODULE (in Python: import it)"
        )
        self.component = f"{family} {_shown(name)}"


@dataclass(frozen=True)
class Option:
    """A parameter of a component that users may set.

    Attributes:
        name: of the constructor's parameter.
        type: its annotation, resolved.
        default: ``REQUIRED`` if it has none.
        help: its line in the Args or Attributes section of the component's docstring.
    """

    name: str
    type: Any
    default: Any
    help: str


def register(family: str, name: str) -> Callable[[T], T]:
    """Register a class or function under a name that recipes and the command line use.

    Args:
        family: one of ``CONTEXT``.
        name: lower case; words joined by hyphens.

    Raises:
        ValueError: there is no such family, or another component has that name.
    """
    if family not in CONTEXT:
        raise ValueError(f"there is no family of components {family!r}{_nearest(family, CONTEXT)}")

    def add(component: T) -> T:
        known = _COMPONENTS[family].get(name)
        # a module that is imported again (a notebook cell run twice) may replace its own component
        if known is not None and (known.__module__, known.__qualname__) != (
            component.__module__,
            component.__qualname__,
        ):
            raise ValueError(f"{family} {name!r} is registered already, by {known.__module__}.{known.__qualname__}")
        _COMPONENTS[family][name] = component
        return component

    return add


def names(family: str) -> list[str]:
    """The names of a family's components, in the order of their registration."""
    return list(_COMPONENTS[family])


def get(family: str, name: str) -> Callable[..., Any]:
    """The component of a name.

    Raises:
        UnknownComponent: nothing is registered under it; the message names the nearest.
    """
    known = _COMPONENTS[family]
    if name not in known:
        raise UnknownComponent(family, str(name), known)  # a file may hold another type
    return known[name]


def name_of(family: str, component: object) -> str | None:
    """The name under which the class of a component, or the component itself, is registered; None if it is not."""
    for name, known in _COMPONENTS[family].items():
        if known is component or known is type(component):
            return name
    return None


def options(family: str, name: str) -> dict[str, Option]:
    """The options of a component, by name.

    Raises:
        ValueError: nothing is registered under the name, or an option has no type.
    """
    component = get(family, name)
    function = component.__init__ if inspect.isclass(component) else component
    hints = typing.get_type_hints(function)
    help_lines = _arguments(component)
    found = {}
    for parameter in inspect.signature(component).parameters.values():
        if parameter.name in CONTEXT[family] or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        if parameter.name not in hints:
            raise ValueError(f"option {parameter.name!r} of {family} {name!r} has no type annotation")
        found[parameter.name] = Option(
            parameter.name, hints[parameter.name], parameter.default, help_lines.get(parameter.name, "")
        )
    return found


def context(family: str, name: str) -> tuple[str, ...]:
    """The parameters of a component that the package supplies."""
    return tuple(p for p in inspect.signature(get(family, name)).parameters if p in CONTEXT[family])


def required_context(family: str, name: str) -> tuple[str, ...]:
    """The parameters that the package supplies and without which the component cannot be made."""
    parameters = inspect.signature(get(family, name)).parameters
    return tuple(p for p in context(family, name) if parameters[p].default is inspect.Parameter.empty)


def summary(component: Callable[..., Any]) -> str:
    """The first line of a component's docstring."""
    return (inspect.getdoc(component) or "").split("\n", 1)[0]


def build(family: str, name: str, values: dict[str, Any] | None = None, **supplied: Any) -> Any:
    """Make a component.

    Args:
        family: as of ``register``.
        name: as of ``register``.
        values: its options.
        supplied: the context; what its constructor does not take is left out.

    Raises:
        ValueError: as ``get``, or a value that the constructor refuses.
    """
    wanted = context(family, name)
    return get(family, name)(**{k: v for k, v in supplied.items() if k in wanted}, **(values or {}))


def import_submodules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that the components in a new file are registered without a list of files."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


_OTHER_NAMES = {
    "ddpm": "ancestral",
    "euler_a": "ancestral",
    "euler-a": "ancestral",
    "euler_ancestral": "ancestral",
    "plms": "ipndm",
    "dpmsolver++": "dpmpp-2m",
    "dpm-solver": "dpmpp-2m",
    "dpmpp_2m": "dpmpp-2m",
    "dpmpp_3m": "dpmpp-3m",
    "dpmpp_2m_sde": "dpmpp-2m-sde",
    "dpmsolver": "dpmpp-2m",
    "dpm-solver++": "dpmpp-2m",
    "dpm++": "dpmpp-2m",
    "pndm": "ipndm",
    "epsilon": "eps",
    "noise": "eps",
    "sample": "x0",
    "velocity": "v",
    "v_prediction": "v",
    "l2": "mse",
    "l1": "mae",
    "squaredcos_cap_v2": "cosine",
}
"""Names that other libraries use."""


def _shown(name: str) -> str:
    """A name for a message, shortened."""
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


def _nearest(name: str, known: Iterable[str]) -> str:
    other = _OTHER_NAMES.get(name.lower())
    if other is not None and other in known:
        return f": here it is {other!r}."
    near = difflib.get_close_matches(name.lower(), list(known), 1, 0.5)
    return f": did you mean {near[0]!r}?" if near else "."


def _arguments(component: Callable[..., Any]) -> dict[str, str]:
    """Help by parameter, from the Args or Attributes sections of the docstrings of a component and its constructor."""
    found: dict[str, str] = {}
    for owner in (component, component.__init__ if inspect.isclass(component) else None):
        text = inspect.getdoc(owner) if owner is not None else None
        for section in re.findall(r"(?:^|\n)(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", text or ""):
            name = ""
            for line in inspect.cleandoc("\n" + section).splitlines():
                start = re.match(r"(\w+)(?: \([^)]*\))?: +(.*)", line)
                if start:
                    name, rest = start.groups()
                    found.setdefault(name, rest)
                elif name and line.startswith(" "):
                    found[name] += " " + line.strip()
    return found
