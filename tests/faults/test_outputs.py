"""What is written: by processes at once, of models that diverged, and for other programs (review C10, C13, Low)."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from malformed_inputs import FEATURE_HEADERS, FORMULA
from PIL import Image

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.cli import main
from fromnoise.clustering.assign import read_mixture
from fromnoise.clustering.assignments import Assignments
from fromnoise.clustering.given_labels import read_given_labels
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.evaluation.metrics.nearest import NearestNeighbours
from fromnoise.model import build
from fromnoise.reporting.documents import BulletList, Code, Figure, Heading, Table, Text, to_html
from fromnoise.reporting.image_io import labelled_grid
from fromnoise.utils.csv_cells import escape_cell, unescape_cell
from fromnoise.utils.errors import UserError
from fromnoise.utils.locks import is_free, lock_folder, reserved_folder, unlock_folder

TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention_resolutions": [],
    "network.groups": 4,
    "network.middle_attention": False,
}


def save(path: Path, factor: float = 1.0, progress=None, **info) -> Path:
    """A tiny model with scaled weights."""
    values = TINY | {"data.labels": True, "sample.steps": 2, "sample.clip": False}
    model = build(recipes.load("digits", values), DatasetInfo((1, 8, 8), ("a", "b"), "abc"))
    weights = {name: t * factor if t.is_floating_point() else t for name, t in model.denoiser.state_dict().items()}
    checkpoint.save_model(path, model, weights, progress or {"step": 1})
    return path


# ---- C10: several processes


def folders(parent: Path):
    """Candidates, as of ``fromnoise evaluate``."""
    return (parent / f"evaluation-{i}" for i in range(1, 5))


def test_c10_two_evaluations_at_once_get_folders_of_their_own(tmp_path):
    """The second takes the next number while the first is still empty."""
    with reserved_folder(folders(tmp_path)) as first, reserved_folder(folders(tmp_path)) as second:
        assert (first.name, second.name) == ("evaluation-1", "evaluation-2")
        (first / "report.md").write_text("x")
    assert [p.name for p in tmp_path.rglob("*")] == ["evaluation-1", "report.md"]  # an empty folder is removed
    with reserved_folder(folders(tmp_path)) as third:
        assert third.name == "evaluation-2"


def test_c10_one_folder_for_two(tmp_path):
    """An explicit folder that another process has reserved, or that has content, is refused."""
    with reserved_folder([tmp_path / "x"]), pytest.raises(UserError, match="another process is writing"):
        with reserved_folder([tmp_path / "x"]):
            pass
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "notes").write_text("x")
    with pytest.raises(UserError, match="is not empty"), reserved_folder([tmp_path / "y"]):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["notes", "y"]


def test_c10_folder_left_by_a_killed_evaluation(tmp_path):
    """Its lock is released with the process, so an empty folder is used again."""
    child = os.fork()
    if not child:
        (tmp_path / "evaluation-1").mkdir()
        lock_folder(tmp_path / "evaluation-1")
        os._exit(9)
    os.waitpid(child, 0)
    assert is_free(tmp_path / "evaluation-1")
    with reserved_folder(folders(tmp_path)) as folder:
        assert folder.name == "evaluation-1"


def test_c10_evaluate_into_a_folder_in_use(tmp_path, capsys):
    """The command line says so, and writes nothing."""
    save(tmp_path / "m.safetensors")
    (tmp_path / "out").mkdir()
    handle = lock_folder(tmp_path / "out")
    assert main(["evaluate", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "another process is writing" in capsys.readouterr().err.splitlines()[-1]
    unlock_folder(tmp_path / "out", handle, remove=True)
    assert list((tmp_path / "out").iterdir()) == []


# ---- C13: samples that are not finite


@pytest.mark.parametrize("factor", [float("nan"), 1e30])
def test_c13_sample_of_a_model_that_diverged(tmp_path, capsys, factor):
    """NaN weights, and finite weights whose samples are not: exit code 2, one line, no picture."""
    path = save(tmp_path / "m.safetensors", factor)
    out = tmp_path / "x.png"
    assert main(["sample", str(path), "-n", "2", "--out", str(out), "--device", "cpu"]) == 2
    assert "not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


# ---- Low


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("'=1", "''=1"),
        ("-1", "-1"),
        ("+1.5e3", "+1.5e3"),
        ("cat", "cat"),
        ("'tis", "'tis"),
        ("", ""),
    ],
)
def test_low_cells_that_a_spreadsheet_would_evaluate(text, cell):
    """They get an apostrophe; reading them gives the text back."""
    assert escape_cell(text) == cell
    assert unescape_cell(cell) == text


def test_low_assignments_with_formulas_as_names(tmp_path):
    """In both columns of names; as known labels they are the same names again."""
    names = (FORMULA, "cat")
    index, q = torch.arange(2), torch.eye(2, dtype=torch.float64)
    table = Assignments(index, q, names, torch.tensor([1, 0]), names)
    rows = list(csv.DictReader(io.StringIO(table.csv().decode())))
    assert [row["cluster"] for row in rows] == ["'=cmd|'/c calc'!A1", "cat"]
    assert [row["label"] for row in rows] == ["cat", "'=cmd|'/c calc'!A1"]
    table.write(tmp_path / "x.csv")
    assert set(read_given_labels(tmp_path / "x.csv", 2, 2).names) == set(names)


@pytest.mark.parametrize(
    "mixture",
    [
        7,
        [],
        {"weights": [0.5, 0.5]},
        {"weights": [1.0], "proposal": None},
        {"weights": ["a", "b"], "proposal": None},
        {"weights": [0.5, float("inf")], "proposal": None},
        {"weights": [-1.0, 2.0], "proposal": None},
        {"weights": [0.0, 0.0], "proposal": None},
        {"weights": [0.5, 0.5], "proposal": [1.0]},
        {"weights": [0.5, 0.5], "proposal": {"a": 1}},
        {"weights": [10**400, 1], "proposal": None},
        {"weights": [0.5, 0.5], "proposal": None, "temperature": 0},
        {"weights": [0.5, 0.5], "proposal": None, "temperature": "warm"},
    ],
)
def test_low_mixtures_of_a_header(tmp_path, mixture):
    """A mixture that does not fit the model is one line; an empty one is none."""
    loaded = checkpoint.load_model(save(tmp_path / "m.safetensors", progress={"step": 1, "mixture": mixture}))
    if not mixture:
        assert read_mixture(loaded, 2, 10) is None
        return
    with pytest.raises(checkpoint.DamagedFile, match=r"m\.safetensors.*mixture"):
        read_mixture(loaded, 2, 10)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_low_doctor_on_very_few_images(tmp_path, capsys, count):
    """One image has no neighbour; no check fails."""
    for i in range(count):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8) + np.arange(8, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert main(["doctor", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out and "Traceback" not in said.err


@pytest.mark.parametrize("header", FEATURE_HEADERS)
def test_low_cached_features(tmp_path, header):
    """A file of the feature cache with another header, other weights or no content counts as missing."""
    from fromnoise.evaluation.features import convnet, trained

    net, path = convnet.classifier_network((1, 8, 8), 2), tmp_path / "x.safetensors"
    checkpoint.write(path, net.state_dict(), {"kind": "classifier"} | header)
    assert trained._load(path, net) is None
    checkpoint.write(path, {"w": torch.zeros(2)}, {"kind": "classifier", "accuracy": 0.5})
    assert trained._load(path, net) is None
    path.write_bytes(b"")
    assert trained._load(path, net) is None


def test_low_ratio_without_neighbours():
    """Infinity: it is no copy."""
    search = NearestNeighbours(torch.zeros(2, 3))
    assert search.distance_ratios.tolist() == [float("inf")] * 2
    assert search.copy_rate.value == 0


def test_low_long_class_names_in_a_grid():
    """A name of a million letters does not make an image of that width."""
    names = ("x" * 1_000_000, "\u00e9\u4e2d\U0001f600")
    sheet = labelled_grid(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), names)
    assert sheet.width < 2000


def test_low_names_in_pages_are_text():
    """A class or a run called like a script is shown, not run: in headings, tables, captions, lists and code."""
    name = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    picture = Image.new("L", (1, 1))
    blocks = [
        Heading(name),
        Text(name),
        BulletList([name]),
        Code(name),
        Table([name], [[name]]),
        Figure(name, picture, name),
    ]
    page = to_html(name, blocks)
    assert "<script" not in page and "<img src" not in page and page.count("&lt;script&gt;") >= 8


def test_low_os_errors_are_one_line(monkeypatch, capsys):
    """A full disk, or too many open files, wherever it is noticed."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("fromnoise.cli.recipes.run", full)
    assert main(["recipes"]) == 2
    assert capsys.readouterr().err == "fromnoise: /somewhere: No space left on device\n"


# ---- C15: several processes

ROOT = Path(__file__).parents[2]


def test_c15_accuracy_of_several_processes_is_stated():
    """Where the documents compare the weights of processes, they say float32; bit for bit is said of one machine's CPU.

    ``tests/training/test_distributed.py`` measures it.
    """
    found = 0
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for line in page.read_text(encoding="utf-8").split(". "):
            if "processes" in line and "weights of one" in line:
                found += 1
                assert "float32" in line, (page, line)
            assert not ("two processes" in line and "same weights" in line), (page, line)
    assert found >= 2
