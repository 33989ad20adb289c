"""The structure of the package: who imports whom, nothing executes data, help imports nothing heavy, docstrings."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "fromnoise"
FILES = sorted(PACKAGE.rglob("*.py"))

# A package imports itself and the rows above its own, never a row below nor its neighbours.
ROWS = (
    {"registry"},
    {"", "diffusion", "networks", "optim", "recipes", "trackers"},
    {"utils"},
    {"data"},
    {"config"},
    {"model"},
    {"checkpoint"},
    {"pipeline", "reporting"},
    {"run_dir"},
    {"editing", "evaluation", "interop", "tuning"},
    {"training"},
    {"clustering", "api"},
    {"web"},
    {"cli"},
    {"__main__"},
)
# What the paper and the networks may use besides the standard library and themselves.
ALONE = {"registry": set(), "diffusion": {"torch"}, "networks": {"torch"}, "optim": {"torch"}}
BESIDES = {("fromnoise.diffusion.likelihood.ode", "scipy")}  # the adaptive solver, imported where it is used
PICKLES = "fromnoise.interop.pickles"  # the one module that may call torch.load, with weights_only=True
EXECUTES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LIGHT = {"fromnoise", "fromnoise.registry", "fromnoise.utils", "fromnoise.utils.errors", "fromnoise.cli"}
LIGHT |= {"fromnoise.utils.environment"}


def named(path: Path) -> tuple[str, bool]:
    """Dotted name of a file of the package, and whether it is a package itself."""
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return (".".join(parts[:-1]), True) if parts[-1] == "__init__" else (".".join(parts), False)


def top_package(module: str) -> str:
    """The part of fromnoise that a module is in: "" for fromnoise itself."""
    return (module.split(".") + [""])[1]


def imports(body: ast.AST, module: str, package: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Absolute names of the imported modules below a node, each with the names taken from it."""
    for node in ast.walk(body):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + package] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def modules(tree: ast.AST, module: str, package: bool = False) -> Iterator[str]:
    """As ``imports``; what is taken from the bare package is a module of it, if it is one."""
    for name, taken in imports(tree, module, package):
        if name == "fromnoise" and taken:
            yield from (
                f"fromnoise.{t}" if (PACKAGE / t).is_dir() or (PACKAGE / f"{t}.py").exists() else name for t in taken
            )
        else:
            yield name


def upward(source: str, module: str, package: bool = False) -> list[str]:
    """What a module imports and must not."""
    mine = top_package(module)
    if module == "fromnoise":
        return []  # the public names, imported when they are first used
    row = next((i for i, packages in enumerate(ROWS) if mine in packages), None)
    if row is None:
        return [f"{module} is in a package without a row: give {mine!r} one in ROWS"]
    below = set().union(*ROWS[:row])
    if mine in ALONE:
        below = {"registry"}
    wrong = []
    tree = ast.parse(source)
    if module == "fromnoise":  # the public API imports what it names when it is first used
        tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for name in modules(tree, module, package):
        top = name.split(".")[0]
        if top == "fromnoise":
            fine = top_package(name) in (mine, "registry") or (top_package(name) in below and mine not in ALONE)
        else:
            fine = mine not in ALONE or top in sys.stdlib_module_names or top in ALONE[mine] or (module, top) in BESIDES
        if not fine:
            wrong.append(f"{module} imports {name}")
    return wrong


def executing(source: str, module: str) -> list[str]:
    """What could run code that a file carries, and torchvision."""
    tree = ast.parse(source)
    wrong = []
    for name, taken in imports(tree, module):
        parts = name.split(".")
        if parts[0] in EXECUTES or parts[0] == "torchvision" or (parts[0] == "torch" and "load" in taken):
            wrong.append(f"{module} imports {name} {' '.join(taken)}".rstrip())
    safe = [
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
    ]
    for node in ast.walk(tree):
        if module == PICKLES and node in safe:
            continue
        if isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__"):
            wrong.append(f"{module}:{node.lineno} uses {node.id}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.jit.load", "builtins.eval"):
            wrong.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            wrong.append(f"{module}:{node.value.lineno} allows pickle")
    return wrong


def heavy(source: str, module: str, package: bool = False) -> list[str]:
    """What a module imports while it is imported, besides the standard library and the light modules."""
    waiting, wrong = list(ast.parse(source).body), []
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in modules(node, module, package):
                light = name in LIGHT or name.startswith("fromnoise.cli.")
                if not light and name.split(".")[0] not in sys.stdlib_module_names:
                    wrong.append(f"{module} imports {name} at its top")
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
    return wrong


def undocumented(source: str, module: str) -> list[str]:
    """The public functions, classes and methods without a docstring, and the module itself."""
    tree = ast.parse(source)
    wrong = [] if ast.get_docstring(tree) else [module]
    waiting = [(module, node) for node in tree.body]
    while waiting:
        where, node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                wrong.append(f"{where}.{node.name}")
            if isinstance(node, ast.ClassDef):
                waiting += [(f"{where}.{node.name}", inner) for inner in node.body]
    return wrong


def test_the_package_is_found():
    """The checks below look at something."""
    assert {"schedules.py", "unet.py", "load.py", "trainer.py", "sample.py"} <= {f.name for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: named(p)[0])
def test_imports_go_down(path):
    """The paper knows nobody, and nobody looks back up."""
    assert upward(path.read_text(), *named(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: named(p)[0])
def test_nothing_executes_what_it_reads(path):
    """No pickle, no eval, no torchvision."""
    assert executing(path.read_text(), named(path)[0]) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=lambda p: p.stem)
def test_verbs_import_when_they_run(path):
    """So that help is instant."""
    assert heavy(path.read_text(), *named(path)) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "diffusion").rglob("*.py")), ids=lambda p: p.stem)
def test_the_paper_is_explained(path):
    """Every public name of ``diffusion`` has a docstring."""
    assert undocumented(path.read_text(), named(path)[0]) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("fromnoise.diffusion.samplers.base", "import numpy", "numpy"),
        ("fromnoise.diffusion.samplers.base", "from fromnoise.networks import unet", "fromnoise.networks"),
        ("fromnoise.diffusion.samplers.base", "from fromnoise import networks", "fromnoise.networks"),
        ("fromnoise.diffusion.samplers.base", "from fromnoise.utils.errors import UserError", "fromnoise.utils.errors"),
        ("fromnoise.diffusion.samplers.base", "from ...networks import unet", "fromnoise.networks"),
        (
            "fromnoise.networks.unet",
            "from fromnoise.diffusion.schedules import NoiseLevel",
            "fromnoise.diffusion.schedules",
        ),
        ("fromnoise.networks.unet", "import einops", "einops"),
        ("fromnoise.data.load", "from fromnoise import config", "fromnoise.config"),
        ("fromnoise.config", "import fromnoise.model", "fromnoise.model"),
        ("fromnoise.model", "def f():\n    from fromnoise.checkpoint import read", "fromnoise.checkpoint"),
        ("fromnoise.pipeline", "from fromnoise.reporting import grid", "fromnoise.reporting"),
        ("fromnoise.training.run", "from fromnoise.cli import main", "fromnoise.cli"),
        ("fromnoise.attic", "import os", "ROWS"),
    ],
)
def test_an_import_up_is_seen(module, source, wrong):
    """The check of the imports can fail."""
    assert [wrong in line for line in upward(source, module)] == [True]


def test_an_import_down_is_fine():
    """And can hold."""
    assert (
        upward("import math, torch\nfrom torch import nn\nfrom . import schedule", "fromnoise.diffusion.samplers.base")
        == []
    )
    assert upward("from fromnoise import __version__, model", "fromnoise.checkpoint") == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import torchvision.transforms as T",
        "from torch import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "eval('1')",
        "exec(text)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
    ],
)
def test_what_executes_is_seen(source):
    """The check of what executes can fail."""
    assert len(executing(source, "fromnoise.x")) == 1


def test_one_module_may_load_weights_of_pickles():
    """With ``weights_only=True`` written out, and nothing else."""
    assert executing("import torch\ntorch.load(path, weights_only=True)", PICKLES) == []
    assert len(executing("import torch\ntorch.load(path, weights_only=flag)", PICKLES)) == 1
    assert len(executing("import torch\ntorch.load(path)", PICKLES)) == 1
    assert len(executing("import torch\ntorch.load(path, weights_only=True)", "fromnoise.interop.source")) == 1


def test_what_only_sounds_like_it_is_fine():
    """A module's ``eval`` and a named refusal of pickle."""
    assert (
        executing("net.eval()\nnp.load(f, allow_pickle=False)\nfrom safetensors.torch import load", "fromnoise.x") == []
    )


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from fromnoise import config",
        "from fromnoise.config import load",
        "try:\n    import numpy\nexcept: pass",
    ],
)
def test_a_heavy_import_is_seen(source):
    """The check of the verbs can fail."""
    assert len(heavy(source, "fromnoise.cli.train")) == 1


def test_a_light_import_is_fine():
    """Also a heavy one for the type checker, or inside the verb."""
    source = "import json\nfrom fromnoise import __version__\nif TYPE_CHECKING:\n    import torch\n"
    source += "def f():\n    import torch"
    assert heavy(source, "fromnoise.cli.train") == []


def test_a_missing_docstring_is_seen():
    """The check of the docstrings can fail, on a module, a class, a method and a function."""
    source = "class A:\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\ndef _i(): ..."
    assert undocumented(source, "m") == ["m", "m.A", "m.h", "m.A.f"]
