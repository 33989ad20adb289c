"""A sampler is added to the package by one file: flags, help, recipe keys and the reference follow."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fromnoise

ROOT = Path(__file__).parents[1]
SHOW = """
import contextlib, io, json, sys
import fromnoise
from fromnoise import config
from fromnoise.cli import main

def output(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(list(words))
    return " ".join(out.getvalue().split())

found = {"package": fromnoise.__file__, "sample": output("sample", "--help"), "edit": output("edit", "vary", "--help")}
found["key"] = config.keys()["sample.sampler.fade"]
chosen = config.load("digits", {"sample.sampler": "fading", "sample.sampler.fade": 0.25})
found["toml"] = config.to_toml(chosen)
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    import hooks
    found["reference"] = " ".join(hooks.components().split())
print(json.dumps(found))
"""


def test_a_new_sampler_is_one_file(tmp_path):
    """In a copy of the package; no other file of it is changed."""
    copy = tmp_path / "fromnoise"
    shutil.copytree(Path(fromnoise.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/plugin/my_parts/fading_sampler.py", copy / "diffusion/samplers/fading.py")
    docs = [str(ROOT / "docs")] if importlib.util.find_spec("mkdocs") else []
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *docs], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"] == str(copy / "__init__.py")
    for verb in ("sample", "edit"):
        assert "--fade F fading: 0 is DDIM, 1 gives gray images" in found[verb]
    assert "fading DDIM, whose samples fade to gray." in found["sample"]
    assert found["key"] == ["fading: 0 is DDIM, 1 gives gray images.", 0.5]
    assert '[sample.sampler]\nkind = "fading"\nfade = 0.25\n' in found["toml"]
    if docs:
        assert "### `fading` { #sampler-fading } DDIM, whose samples fade to gray." in found["reference"]
        assert "| `fade` | `float` | `0.5` | 0 is DDIM, 1 gives gray images. |" in found["reference"]
