"""Validation errors of pydantic in words that a user of the command line or of a TOML file understands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from fromnoise.config.other_names import OTHER_KEYS

_PLAIN = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def explain_value(error: Any) -> str:
    """What a value must be.

    Args:
        error: an item of ``ValidationError.errors()``.
    """
    kind, value = error["type"], error["input"]
    if value == "" and kind in _PLAIN:
        return f"needs a value: it {_PLAIN[kind]}"
    if kind in ("tuple_type", "list_type"):
        shown = value if isinstance(value, int | float) and not isinstance(value, bool) else "..."
        return f"must be a list, such as [{shown}]"
    if kind in ("too_short", "too_long"):
        return f"must be a list of {error['ctx'].get('min_length', error['ctx'].get('max_length'))} values"
    if kind == "missing":
        return "has too few values" if error["loc"] and isinstance(error["loc"][-1], int) else "is missing"
    if kind == "model_type":
        section = ".".join(map(str, error["loc"]))
        return f"must be a section, [{section}] in TOML, with its own keys"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return _PLAIN.get(kind, message)


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known dotted key that an unknown one probably means.

    Args:
        key: dotted.
        known: dotted.
    """
    known = list(known)
    section, last = key.partition(".")[0].lower(), key.rpartition(".")[2].lower()
    if key.lower() in known:
        return key.lower()
    other = OTHER_KEYS.get(key.lower().replace(".", "_"), OTHER_KEYS.get(last))
    if other is not None and (other in known or other.rpartition(".")[0] in known):
        return other
    same = [k for k in known if k.split(".")[-1] == last]
    own = {k.rpartition(".")[2]: k for k in reversed(known) if k.split(".")[0] == section}
    near = difflib.get_close_matches(last, own, 1, 0.6)
    if near:
        return own[near[0]]
    if same:
        return (difflib.get_close_matches(key, same, 1, 0.0) or same)[0]
    near = difflib.get_close_matches(key.lower(), known, 1, 0.6)
    if near:
        return near[0]
    every = {k.rpartition(".")[2]: k for k in reversed(known)}
    near = difflib.get_close_matches(last, every, 1, 0.6)
    return every[near[0]] if near else None
