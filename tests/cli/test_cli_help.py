"""Help: instant, with defaults and an example; a mistyped verb is recognised."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import fromnoise
from fromnoise.cli import VERBS
from fromnoise.cli.data import TASKS
from fromnoise.cli.edit import EDITS

HELPS = [[], *([verb] for verb in VERBS), ["show", "data"], ["show", "forward"], *(["edit", t] for t in EDITS)]
HELPS += [["data", t] for t in TASKS]


def quickest(words: list[str], limit: float, tries: int = 3) -> float:
    """Processor seconds of the quickest of some processes, to which other programs add nothing."""
    spent = []
    for _ in range(tries):
        process = subprocess.Popen(
            [sys.executable, "-m", "fromnoise", *words, "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        with process:
            assert process.stdout is not None
            said = process.stdout.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0 and said.startswith(" ".join(["usage: fromnoise", *words])), said
        spent.append(usage.ru_utime + usage.ru_stime)
        if spent[-1] < limit:
            break
    return min(spent)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no wait4 on this system")
@pytest.mark.parametrize(("words", "limit"), [([], 0.5), (["train"], 0.5), (["sample"], 3.0)])
def test_help_is_instant(words, limit):
    """Half a second at most, of which Python takes most; three where the flags are those of the registered samplers."""
    assert quickest(words, limit) < limit


def test_help_loads_nothing_heavy():
    """Neither torch nor numpy, except for verbs whose flags are made from the constructors of components."""
    script = """
import contextlib, json, sys
from fromnoise.cli import main
for words in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    print("heavy:", *words, *sorted({"torch", "numpy", "pydantic", "PIL", "scipy", "matplotlib"} & set(sys.modules)))
"""
    light = [words for words in HELPS if not words or words[0] not in ("sample", "edit", "import", "export")]
    command = [sys.executable, "-c", script, json.dumps(light)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert found == [" ".join(["heavy:", *words]) for words in light] and not done.stderr


@pytest.mark.parametrize("words", HELPS, ids=lambda w: " ".join(w) or "top")
def test_every_help_has_an_example(right, words):
    """That begins as one would type it."""
    help = right(*words, "--help").out
    example = help.partition("example")[2]
    assert " ".join(["  fromnoise", *words]) in example


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_listed(right, verb):
    """With what it is for."""
    assert f"\n    {verb} " in right("--help").out
    assert right(verb, "-h").out.startswith(f"usage: fromnoise {verb}")


def test_defaults_are_shown(right):
    """Of every option that has one."""
    shown = " ".join(right("sample", "--help").out.split())
    for default in ("samples per batch (default: 64)", "depends on (seed, i) only (default: 0)", "(default: auto)"):
        assert default in shown
    assert "(default: 6)" in " ".join(right("show", "forward", "--help").out.split())


@pytest.mark.parametrize("words", HELPS, ids=lambda w: " ".join(w) or "top")
def test_help_says_no_nonsense(right, words):
    """What is not set has no default; every option is explained."""
    help = right(*words, "--help").out
    assert "(default: None)" not in help and "==SUPPRESS==" not in help
    explained = help.partition("options:")[2].partition("example")[0].splitlines()
    for i, line in enumerate(explained):
        if line.startswith("  -") and line.count("  ") < 2:  # an option without words beside it
            assert explained[i + 1].startswith("   "), line


def test_version(right):
    """The package's."""
    assert right("--version").out == f"fromnoise {fromnoise.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"), [("tran", "train"), ("smaple", "sample"), ("recipe", "recipes"), ("shwo", "show")]
)
def test_a_mistyped_verb_is_recognised(wrong, typed, meant):
    """The nearest is named."""
    wrong(typed, "digits", message=(typed, f"did you mean {meant}?"))


def test_a_verb_like_no_other(wrong):
    """All are named."""
    wrong("xyzzy", message=("xyzzy", *VERBS))


def test_no_verb(wrong):
    """The way to the help is named."""
    wrong(message=("VERB", "fromnoise --help"))


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["sample"],
        ["show"],
        ["show", "data"],
        ["show", "data", "digits"],
        ["show", "what", "digits"],
        ["train", "digits", "--nonsense"],
        ["sample", "run", "--out", "x.png", "-n", "many"],
        ["recipes", "--json"],
    ],
    ids=" ".join,
)
def test_a_missing_or_unknown_argument(wrong, words):
    """One line, with the way to the help."""
    wrong(*words, message="--help")
