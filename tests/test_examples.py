"""The programs and notebooks of examples/ run, at a smaller scale, and do what they say."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from forked import context
from forked_python import python
from fromnoise.training.previews import Previews
from test_docs import code_lines

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SMALL = {
    "evaluate_samples": ["--features", "pixels"],
    "likelihood": ["--images", "8"],
    "train_and_evaluate": ["--samples", "20"],
}
"""Further arguments of programs, besides a few training steps."""


def name(path: Path) -> str:
    """The file's name without its suffix."""
    return path.stem


def arguments(path: Path, folder: Path, steps: int = 2) -> list[str]:
    """The command line of a small run that writes to ``folder``; the digits model is shared by all programs."""
    options = {"--steps": str(steps), "--out": str(folder / path.stem), "--run": str(folder / "digits")}
    known = path.read_text(encoding="utf-8")
    chosen = [word for option, value in options.items() if f'"{option}"' in known for word in (option, value)]
    return [*chosen, *SMALL.get(path.stem, [])]


def run_program(path: str, argv: list[str], output: str) -> None:
    """Run a program as the main module, with its output in a file; the process ends with status 1 if it raises."""
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        for preview in ("save_preview", "save_loss_plot"):  # most of the time of a run this small
            setattr(Previews, preview, lambda *args: None)
        sys.argv[:] = [path, *argv]
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        finally:
            sys.stdout.flush()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The results of all programs."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def run(folder) -> Callable[..., str]:
    """Runs a program in its own process, forked from one that has imported the package; returns what it printed."""

    def run(path: Path, steps: int = 2) -> str:
        output = folder / f"{path.stem}.txt"
        process = context().Process(target=run_program, args=(str(path), arguments(path, folder, steps), str(output)))
        process.start()
        process.join(120)
        text = output.read_text(encoding="utf-8")
        assert process.exitcode == 0, text
        return text

    return run


def gray(path: Path) -> np.ndarray:
    """A picture as gray levels."""
    return np.asarray(Image.open(path).convert("L")).astype(float)


def test_there_are_at_least_ten_programs_and_two_notebooks():
    """Every program has 10 to 60 lines without its docstring, and the docstring says how to run it."""
    assert len(PROGRAMS) >= 10 and len(NOTEBOOKS) >= 2
    for path in PROGRAMS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        end = tree.body[0].end_lineno or 0
        assert f"examples/{path.name}" in (ast.get_docstring(tree) or ""), path
        assert 10 <= len(path.read_text(encoding="utf-8").splitlines()) - end <= 60, path


def test_examples_use_the_public_interface():
    """No program or notebook imports a name that begins with an underscore."""
    for path in (*PROGRAMS, *NOTEBOOKS):
        assert not re.search(r"\b(?:fn|fromnoise)\.(?:\w+\.)*_\w|import _\w", path.read_text(encoding="utf-8")), path


def check_quickstart(folder: Path, printed: str) -> None:
    """Three runs, and the steps of sampling."""
    for kind in ("tensors", "folder", "dataset"):
        assert (folder / kind / "model.safetensors").exists() and (folder / f"{kind}.png").exists()
    assert len(re.findall(r"^t = ", printed, re.MULTILINE)) == 10 and "t = 0.00" in printed


def check_inpainting(folder: Path, printed: str) -> None:
    """The upper half of every filled image is that of the original."""
    pixels = gray(folder / "inpainted.png")
    side = (pixels.shape[1] - 2 * 5) // 6  # six columns, with gaps of two pixels
    half = side // 2
    for column in range(2, 6):
        left = column * (side + 2)
        assert np.array_equal(pixels[:half, left : left + side], pixels[:half, :side])
    assert not np.array_equal(pixels[half:side, 2 * (side + 2) : 2 * (side + 2) + side], pixels[half:side, :side])


def check_interpolation(folder: Path, printed: str) -> None:
    """Encoding and decoding along the flow reproduces the ends."""
    found = re.search(r"change by ([\d.]+) of 255", printed)
    assert found and float(found[1]) < 3


def check_own_sampler(folder: Path, printed: str) -> None:
    """At equal cost the methods of order two are closer to the exact solution than DDIM."""
    errors = {sampler: float(error) for sampler, error in re.findall(r"^(\w+): mean error ([\d.]+)", printed, re.M)}
    assert errors["midpoint"] < errors["ddim"] and errors["midpoint"] < 1 + 2 * errors["heun"]


def check_evaluate_samples(folder: Path, printed: str) -> None:
    """A folder of PNGs and the array with the same images have the same metrics."""
    first, second = re.findall(r"Frechet distance alone: (\S+)", printed)
    assert first == second


def check_likelihood(folder: Path, printed: str) -> None:
    """Three bounds and the flow, each finite and positive."""
    bits = [float(value) for value in re.findall(r": ([\d.]+) \+- [\d.]+ bits/dim", printed)]
    assert len(bits) == 4 and all(0 < value < 20 for value in bits)


def check_custom_dataset(folder: Path, printed: str) -> None:
    """The classes of the data set are those of the model."""
    assert "images (3, 8, 8), classes disc, square, cross" in printed and (folder / "classes.png").exists()


def check_own_training_loop(folder: Path, printed: str) -> None:
    """The loss falls."""
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < 0.8 * losses[0]


def check_train_and_evaluate(folder: Path, printed: str) -> None:
    """The table has the Frechet distance."""
    assert "Frechet" in printed and (folder / "model.safetensors").exists()


CHECKS = {key.removeprefix("check_"): value for key, value in globals().items() if key.startswith("check_")}


@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_program_runs(path, folder, run):
    """It ends without an error, and writes pictures or prints results; see the checks above."""
    printed = run(path, steps=20 if path.stem == "own_training_loop" else 2)
    own = folder / path.stem
    assert printed.strip() or any(own.rglob("*.png"))
    for picture in own.rglob("*.png"):
        assert np.ptp(gray(picture)) > 0, picture
    if path.stem in CHECKS:
        CHECKS[path.stem](own, printed)


def test_quickstart_resumes(folder, run):
    """The same program continues its three runs, with a larger number of steps."""
    path, own = EXAMPLES / "quickstart.py", folder / "quickstart"
    if not own.exists():
        run(path)
    run(path, steps=3)
    steps = [[json.loads(line)["step"] for line in p.read_text().splitlines()] for p in own.rglob("reports.jsonl")]
    assert len(steps) == 3 and all(run_steps[-1] == 3 and len(set(run_steps)) == len(run_steps) for run_steps in steps)


def test_plugin_serves_the_command_line(folder, monkeypatch):
    """The data set and the weighting of the plug-in are names for ``fromnoise train``."""
    from fromnoise import registry

    namespace = runpy.run_path(str(EXAMPLES / "my_plugin.py"), run_name="my_plugin")
    try:
        images, labels = registry.get("dataset", "stripes")()
        assert images.shape == (1024, 8, 8) and len(labels) == 1024
        level = namespace["fn"].schedules.linear(1000).at(0.5)
        weight = registry.build("weighting", "sigmoid", {"bias": 0.0}).weight(level, namespace["fn"].targets.Eps())
        assert float(weight) == pytest.approx(1 / (1 + float(level.snr)))
    finally:
        registry._COMPONENTS["dataset"].pop("stripes")
        registry._COMPONENTS["weighting"].pop("sigmoid")


# ---- the program of docs/guide/comparison.md


class _Structure(ast.NodeTransformer):
    """Replaces constants, tuples of constants and command-line arguments, so that programs of other sizes are equal."""

    def visit_Constant(self, node):
        return ast.Name("constant")

    def visit_Tuple(self, node):
        return ast.Name("constant") if all(isinstance(e, ast.Constant) for e in node.elts) else node

    def visit_Attribute(self, node):
        is_argument = isinstance(node.value, ast.Name) and node.value.id == "args"
        return ast.Name("constant") if is_argument else self.generic_visit(node)


def structure(text: str) -> list[str]:
    """The statements of a program without its sizes."""
    return [ast.dump(_Structure().visit(node)) for node in ast.parse(text).body]


def code_cells(path: Path) -> list[str]:
    """The code of a notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_comparison_program_is_an_example_and_a_cell():
    """The counted program is run here in other sizes: as an example and in a notebook."""
    text = (ROOT / "docs" / "comparison" / "with_fromnoise.py").read_text(encoding="utf-8")
    wanted = structure(text)[2:]  # after docstring and import
    assert len(wanted) == code_lines(text) - 1
    example = structure((EXAMPLES / "train_and_evaluate.py").read_text(encoding="utf-8"))
    assert example[-len(wanted) :] == wanted
    assert any(structure(cell) == wanted for cell in code_cells(EXAMPLES / "first_steps.ipynb"))


# ---- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_stored_without_outputs(path):
    """Outputs would go stale, and differ with every run; the cells have none."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert cell["cell_type"] != "code" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """Every cell runs, with few training steps; pictures are shown, and no cell writes to stderr but progress bars."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "executable", python())  # of the kernel
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for full, small in (("steps=600", "steps=3"), ("(200,", "(30,"), ("steps=50", "steps=5")):
            cell.source = cell.source.replace(full, small)
    client.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or "Warning" in output.get("text", "") for output in outputs)
