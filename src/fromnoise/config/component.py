"""Recipe sections that choose a registered component: ``sampler = "ddim"`` or ``sampler = {kind = "ddim", eta = 0.5}``.

The schema of each is made from the typed parameters of the component's constructor when it is first needed, so a
component registered by a plug-in is understood like one of the package.
"""

from __future__ import annotations

import difflib
import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import core_schema
from torch import Tensor

import fromnoise.diffusion
import fromnoise.networks
import fromnoise.optim
import fromnoise.trackers
from fromnoise import registry
from fromnoise.config.messages import explain_value
from fromnoise.config.other_names import OTHER_KEYS

# imported for the components that they register
assert fromnoise.diffusion and fromnoise.networks and fromnoise.optim and fromnoise.trackers

CUSTOM = "custom"
"""The kind of a network that is not registered: a module that the user gives to ``Denoiser`` or ``load``."""
_CHECKED = ("schedule", "weighting", "time_sampler", "sampler", "optimizer", "guidance", "augmentation")
"""Families whose constructors are cheap: they are called to check the options' values, unless they need a context."""

_PLACEHOLDERS: dict[str, dict[str, Any]] = {"guidance": {"denoise": None, "scale": 1.0}}
"""Contexts for that check: constructors store them."""


class Section(BaseModel):
    """A part of a recipe: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are validated.

        Raises:
            ValidationError: unknown key or value out of range.
        """
        return type(self).model_validate(self.model_dump() | dict(update or {}))


class ComponentConfig(Section):
    """The name of a component, ``kind``, and its options as further attributes."""

    # pydantic looks for docstrings in the source of every loaded module; here the registry has read them
    model_config = ConfigDict(use_attribute_docstrings=False)

    kind: str

    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}


class CustomNetwork(ComponentConfig):
    """A network that is given as a module, so that a recipe cannot build it."""

    kind: Literal["custom"] = "custom"


@dataclass(frozen=True)
class Component:
    """Annotates a recipe key whose value is a component: ``Annotated[Any, Component("sampler", "ddim", "help")]``.

    Attributes:
        family: see ``registry.register``.
        default: the kind if a table of options does not name one.
        description: help text of the key.
    """

    family: str
    default: str
    description: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Parse names and tables; the result is serialized by the schema of the component."""
        return core_schema.no_info_before_validator_function(
            functools.partial(parse_component, self.family, self.default), core_schema.any_schema()
        )


class OptionError(ValueError):
    """A wrong option of a component.

    Attributes:
        key: the option, relative to the key of the component; "" for the component itself.
        value: the wrong value.
        component: family and name, if nothing is registered under the name.
    """

    def __init__(self, key: str, value: Any, message: str, unknown: bool = False, component: str = "") -> None:
        """Store the parts of the message; ``unknown`` if the component has no such option."""
        super().__init__(message)
        self.key, self.value, self.unknown, self.component = key, value, unknown, component


_MODELS: dict[tuple[str, str, Callable[..., Any]], type[ComponentConfig]] = {}


def component_model(family: str, kind: str) -> type[ComponentConfig]:
    """The schema of a component: ``kind`` and a field for each option.

    Raises:
        ValueError: no component is registered under the name.
    """
    if family == "network" and kind == CUSTOM:
        return CustomNetwork
    key = (family, kind, registry.get(family, kind))
    if key not in _MODELS:
        fields: dict[str, Any] = {"kind": (Literal[kind], kind)}  # pyright: ignore[reportInvalidTypeForm]
        for option in registry.options(family, kind).values():
            default = ... if option.default is registry.REQUIRED else option.default
            fields[option.name] = (_without_tensor(option.type), Field(default, description=option.help))
        _MODELS[key] = create_model(f"{family}-{kind}", __base__=ComponentConfig, **fields)
    return _MODELS[key]


def _without_tensor(annotation: Any) -> Any:
    """An option's type without the tensors that its constructor also accepts: files hold lists."""
    members = typing.get_args(annotation)
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType) or Tensor not in members:
        return annotation
    return functools.reduce(operator.or_, (member for member in members if member is not Tensor))


def parse_component(family: str, default: str, value: Any) -> ComponentConfig:
    """The configuration of a component from its name, from a table, from itself, or from the component.

    Raises:
        OptionError: unknown component or option, or a value that the component does not accept.
    """
    if isinstance(value, ComponentConfig):
        return value
    table = {"kind": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else None
    if table is None:
        if registry.name_of(family, value) is None:
            raise OptionError("", value, f"give the name of a {family.replace('_', ' ')}, or a table with its options")
        return to_config(family, value)
    kind = table.setdefault("kind", default)
    try:
        model = component_model(family, kind)
    except registry.UnknownComponent as e:
        raise OptionError("", kind, str(e), component=e.component) from None
    except ValueError as e:
        raise OptionError("", kind, str(e)) from None
    try:
        parsed = model.model_validate(table)
    except ValidationError as e:
        raise _option_error(family, kind, model, e.errors()[0]) from None
    given = _PLACEHOLDERS.get(family, {})
    if family in _CHECKED and set(registry.required_context(family, kind)) <= set(given):
        try:
            registry.build(family, kind, parsed.options(), **given)
        except ValueError as e:
            raise OptionError("", kind, str(e)) from None
        except TypeError as e:  # of a placeholder, it says nothing of the options
            if not given:
                raise OptionError("", kind, str(e)) from None
    return parsed


def _option_error(family: str, kind: str, model: type[ComponentConfig], error: Any) -> OptionError:
    key = ".".join(str(p) for p in error["loc"])
    if error["type"] != "extra_forbidden":
        return OptionError(key, error["input"], explain_value(error))
    known = [name for name in model.model_fields if name != "kind"]
    other = OTHER_KEYS.get(key, "").rpartition(".")[2]
    near = [other] if other in known else difflib.get_close_matches(key, known, 1, 0.5)
    what = f"{family.replace('_', ' ')} {kind}"
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'no options'}"
    owners = [name for name in registry.names(family) if key in registry.options(family, name)]
    if not near and owners:
        hint += f"; {key} is an option of {', '.join(owners)}"
    return OptionError(key, error["input"], f"{what} has no option {key}: {hint}", unknown=True)


def to_config(family: str, value: object) -> ComponentConfig:
    """The configuration of a component object: its registered name, and its options read from its attributes.

    Raises:
        ValueError: its class is not registered, or does not keep an option as an attribute of that name.
    """
    kind = registry.name_of(family, value)
    if kind is None:
        raise ValueError(
            f"{type(value).__name__} is not registered: put @fromnoise.register({family!r}, NAME) on its class, so "
            "that a file can name it"
        )
    found: dict[str, Any] = {"kind": kind}
    for name in registry.options(family, kind):
        if not hasattr(value, name):
            raise ValueError(f"{type(value).__name__} must keep its option {name} as an attribute")
        option = getattr(value, name)
        found[name] = option.tolist() if hasattr(option, "tolist") else option
    return parse_component(family, kind, found)
