"""Size of an installation: the files of fromnoise's requirements in this environment, by extra.

    python benchmarks/install_size.py

Sizes are those of the installed files of each distribution, without bytecode; nothing is downloaded. A requirement that
is not installed here is named.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from header import header
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def requirements(name: str, extras: set[str]) -> list[Requirement]:
    """What a distribution needs here, with extras; of fromnoise by this checkout."""
    if name == "fromnoise":
        return [Requirement(text) for text in [*PROJECT["dependencies"], *(t for e in extras for t in EXTRAS[e])]]
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras | {""})]


def closure(name: str, extras: set[str]) -> tuple[set[str], set[str]]:
    """All distributions that one needs, and those of them that are not installed."""
    waiting, seen, missing = [(name, frozenset(extras))], set(), set()
    while waiting:
        entry = waiting.pop()
        if entry in seen:
            continue
        seen.add(entry)
        try:
            needed = requirements(entry[0], set(entry[1]))
        except metadata.PackageNotFoundError:
            missing.add(entry[0])
            continue
        waiting += [(canonicalize_name(r.name), frozenset(r.extras)) for r in needed]
    return {package for package, _ in seen} - missing - {name}, missing


def size(name: str) -> int:
    """Bytes of the files of an installed distribution."""
    files = [Path(str(f.locate())) for f in metadata.files(name) or [] if "__pycache__" not in f.parts]
    return sum(f.stat().st_size for f in files if f.is_file())


def main() -> None:
    """Print a table."""
    print(header())
    extras = [extra for extra in EXTRAS if extra not in ("dev", "docs")]
    core, _ = closure("fromnoise", set())
    torch, _ = closure("torch", set())
    torch |= {"torch"}
    print(f"{'torch and what it needs':28} {sum(map(size, torch)) / 1e6:8.0f} MB")
    print(f"{'fromnoise without torch':28} {sum(map(size, core - torch)) / 1e6:8.0f} MB")
    largest = sorted(core - torch, key=size, reverse=True)[:6]
    print("  of which " + ", ".join(f"{name} {size(name) / 1e6:.0f}" for name in largest))
    for extra in extras:
        found, missing = closure("fromnoise", {extra})
        total = sum(map(size, found - core - torch)) / 1e6
        text = f"not measured: {', '.join(sorted(missing))} not installed here" if missing else f"{total:8.0f} MB"
        print(f"{f'extra {extra}':28} {text}")


if __name__ == "__main__":
    main()
