"""``fromnoise cluster`` and ``assign``: what a run writes, what other verbs do with it, and error messages."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fromnoise.checkpoint import load_model
from fromnoise.cli.assign import _scores
from fromnoise.clustering.activation_choice import TIMES
from fromnoise.clustering.assignments import Assignments
from fromnoise.clustering.scores import ClusterScores

SHORT = [
    "--clustering.encoder_steps",
    "3",
    "--clustering.encoder_batch",
    "16",
    "--clustering.rounds",
    "2",
    "--steps",
    "4",
]
SHORT += ["--diffusion.schedule.steps", "20", "--clustering.e_step_refine", "1", "--network.patch", "2"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file of 60 digits with labels."""
    digits = load_digits()
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, images=(digits.images[:60] * 15).astype(np.uint8), labels=digits.target[:60])
    return path


@pytest.fixture(scope="module")
def clustered(tmp_path_factory, small, few):
    """The run directory of a short run; tests must not write to it."""
    from calling import call

    out = tmp_path_factory.mktemp("clustered") / "run"
    result = call(
        "cluster", few, "-q", "3", "-n", "50", "--out", out, *small, *SHORT, "--json", out.parent / "found.json"
    )
    assert result.code == 0, result.err
    return out


def test_files_of_a_run(clustered):
    """A table in the order of the data set, a page, and the scores before and after EM."""
    rows = list(csv.DictReader((clustered / "assignments.csv").open()))
    assert len(rows) == 50 and list(rows[0]) == ["index", "cluster", "probability", "label"]
    index = [int(r["index"]) for r in rows]
    assert index == sorted(index) and {r["cluster"] for r in rows} <= {"0", "1", "2"}
    assert all(1 / 3 <= float(r["probability"]) <= 1 for r in rows)
    found = json.loads((clustered.parent / "found.json").read_text())
    assert found["images"] == 50 and len(found["rounds"]) == 2 and set(found["scores"]) == {"initial", "em"}
    probability = found["calibration"]
    assert probability["temperature"] >= 1 and probability["repeated"] == 50 and 0 < probability["reproduced"] <= 1
    for key in ("uncalibrated", "calibrated"):
        assert (
            0 <= probability[key]["ece"] <= 1 and probability[key]["images"] == 50 and probability[key]["by_chance"] > 0
        )
    mean = sum(float(r["probability"]) for r in rows) / len(rows)
    assert mean <= probability["reproduced"] + 1e-3  # where the clusters are not found again, nor is it certain
    for name in (
        "report.html",
        "report.md",
        "clusters.png",
        "map.png",
        "objective.png",
        "rounds.json",
        "assignments.parquet",
    ):
        assert (clustered / name).stat().st_size > 0
    page = (clustered / "report.md").read_text()
    assert "fromnoise cluster" in page and "E-step, of the bound" in page
    first, last = found["rounds"]
    assert first["change_by"] is None and set(last["change_by"]) == {"weights", "moves", "training", "e_step"}
    assert last["bound"]["n"] == 50 and last["bound"]["error"] > 0 and "e_step_gain" in first
    assert "by the E-step)" in (clustered / "log").read_text()
    assert "## Probabilities" in page and "calibration error" in page
    assert all(f"{key} {value}" in page for key, value in zip(SHORT[::2], SHORT[1::2], strict=True))


def test_one_process_only(wrong, few, monkeypatch):
    """Under torchrun it is refused, before its ranks take the folder from each other."""
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    wrong("cluster", few, "-q", "3", "--out", "run", message=("one process", "torchrun"))


def test_dry_run(right, small, few, tmp_path):
    """The recipe, steps, E-steps and held-out losses; nothing is written."""
    out = right("cluster", few, "-q", "3", "-n", "50", "--out", "run", *small, *SHORT, "--dry-run").out
    assert "count = 3" in out and "4 steps" in out and "for 2 E-steps)" in out
    assert "held-out losses, 0 previews and 0 final samples" in out and "MB of memory" in out
    assert not (tmp_path / "run").exists()


def test_the_page_says_what_is_a_bound(clustered, right, small, few, tmp_path):
    """The cross-fitted number always; the objective never, and with encoder_weight 0 it has no encoder term."""
    right("cluster", few, "-q", "2", "--out", "run", *small, *SHORT, "--clustering.encoder_weight", "0")
    for run, encoder in ((clustered, True), (tmp_path / "run", False)):
        page = (run / "report.md").read_text()
        assert "an unbiased estimate of a lower bound" in page and "makes it too high" in page
        assert ("this is not a lower bound" in page) == encoder


def test_held_out_images_are_assigned_too(right, small, few, tmp_path):
    """In the order of the data set, with every probability in the Parquet file."""
    import pandas

    right("cluster", few, "-q", "2", "--out", "run", *small, *SHORT)
    table = pandas.read_parquet(tmp_path / "run" / "assignments.parquet")
    assert table["index"].tolist() == list(range(60))
    assert abs(table[["p_0", "p_1"]].sum(axis=1) - 1).max() < 1e-6
    assert table["label"].tolist() == [str(k) for k in load_digits().target[:60]]


def test_a_range_selects_the_number_of_clusters(right, small, few, tmp_path):
    """With a directory for each number, and the bounds that decided."""
    result = right("cluster", few, "-q", "2:3", "--out", "runs", *small, *SHORT, "--json", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert f"selected {found['selected']} clusters" in result.out and "held-out bound" in result.out
    assert set(found["counts"]) == {"2", "3"} and all(c["held_out_bound"]["n"] for c in found["counts"].values())
    assert found["counts"]["3"]["clusters"] == 3
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"q02", "q03"}


def test_own_features_are_a_start_and_select_the_number_of_clusters(right, wrong, small, few, tmp_path):
    """In the run directory itself; every number of the range is compared. Resuming does not need the file."""
    groups = np.load(few)["labels"] % 3
    np.save(tmp_path / "x.npy", 5 * np.eye(3)[groups] + np.random.default_rng(0).standard_normal((60, 3)) / 3)
    words = ["cluster", few, "--features", "x.npy", *small, *SHORT, "--clustering.rounds", "1"]
    ranged = [*words, "-q", "2:8", "--criterion", "features", "--json", "found.json", "--out"]
    assert "selected 3 clusters by eigengap, on 57 images" in right(*ranged, "run").out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["clusters"] == 3 and [s["count"] for s in found["count_selection"]["scores"]] == list(range(2, 9))
    assert json.loads((tmp_path / "run" / "count_selection.json").read_text()) == found["count_selection"]
    assert 'features = "x.npy"' in (tmp_path / "run" / "recipe.toml").read_text()
    rows = list(csv.DictReader((tmp_path / "run" / "assignments.csv").open()))
    clusters = torch.tensor([int(r["cluster"]) for r in rows])
    assert ClusterScores.from_labels(clusters, torch.from_numpy(groups)).accuracy > 0.9  # 3 of 60 are held out
    (tmp_path / "x.npy").unlink()
    right(*words, "-q", "3", "--out", "run")
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    wrong(*ranged, "new", message=("x.npy", "3 rows", "60 images"), notes=True)
    np.save(tmp_path / "x.npy", np.eye(60))
    wrong(
        *words, "-q", "2:20", "--criterion", "features", "--out", "new", message=("too few", "smaller -q"), notes=True
    )


def test_activations_of_a_run_are_a_start(right, wrong, small, few, run, paint, tmp_path):
    """The block and the time are in the run directory; resuming does not need the run; wrong runs are refused."""
    shutil.copy(run / "model.safetensors", "denoiser.safetensors")
    words = ["cluster", few, "-q", "3", "--out", "new", *small, *SHORT, "--clustering.rounds", "1"]
    words += ["--features", "denoiser.safetensors"]
    said = right(*words)
    found = json.loads((tmp_path / "new" / "features.json").read_text())
    assert f"activations of block {found['layer']} at t = {found['time']:g}" in said.err
    assert found["images"] > 50 and {c["time"] for c in found["candidates"]} == set(TIMES)
    Path("denoiser.safetensors").unlink()
    right(*words)
    paint(tmp_path / "colour", [f"{i}.png" for i in range(12)])
    other = ["cluster", "colour", "-q", "3", "--out", "other", *small, *SHORT]
    wrong(*other, "--features", run, message=("8x8", "1 channel", "3 channels"), notes=True, touched=True)
    said = right(*words[:2], "-q", "2:3", "--criterion", "features", *words[4:], "--dry-run", "--features", run)
    assert "selected" in said.out


def test_clusters_are_labels_of_other_verbs(clustered, few, right, tmp_path):
    """``sample`` takes them as labels, and ``assign`` assigns images to them."""
    right("sample", clustered, "--label", "2", "-n", "2", "--steps", "2", "--out", "two.png")
    result = right("assign", clustered, few, "-n", "20", "--out", "new.csv", "--json", "new.json")
    assert "accuracy" in result.out
    rows = list(csv.DictReader((tmp_path / "new.csv").open()))
    assert len(rows) == 20
    found = json.loads((tmp_path / "new.json").read_text())
    assert found["nfe"] == 2 * (3 + 3) and 0 <= found["calibration_error"] <= 1
    assert load_model(clustered).progress["mixture"]["temperature"] >= 1


def test_numbers_of_clusters_are_no_classes():
    """Ten clusters of digits are called 0 to 9, as the classes are, and are matched with them nevertheless."""
    labels, names = torch.arange(3).repeat(20), ("0", "1", "2")
    table = Assignments(torch.arange(60), torch.eye(3, dtype=torch.float64)[(labels + 1) % 3], names, labels, names)
    assert _scores(table, clusters=True)["accuracy"] == 1
    assert _scores(table, clusters=False)["classifier_accuracy"] == 0


def test_a_finished_run_is_not_changed(clustered, small, few, right):
    """By the same command."""
    before = (clustered / "model.safetensors").read_bytes()
    right("cluster", few, "-q", "3", "-n", "50", "--out", clustered, *small, *SHORT)
    assert (clustered / "model.safetensors").read_bytes() == before


def test_given_labels_name_clusters(right, small, few, tmp_path):
    """And stay fixed."""
    (tmp_path / "known.csv").write_text("index,label\n0,ring\n1,bar\n5,ring\n")
    right("cluster", few, "-q", "3", "--out", "run", *small, *SHORT, "--given", "known.csv")
    rows = {int(r["index"]): r for r in csv.DictReader((tmp_path / "run" / "assignments.csv").open())}
    for index, name in ((0, "ring"), (1, "bar"), (5, "ring")):
        assert rows[index]["cluster"] == name and float(rows[index]["probability"]) == 1
    right("sample", "run", "--label", "ring", "-n", "1", "--steps", "2", "--out", "ring.png")


def test_the_number_of_clusters_is_chosen_on_the_features_of_the_encoder(right, small, few, tmp_path):
    """Which is not trained again: by the same command the run goes on with its number; a dry run trains nothing."""
    words = ["cluster", few, "-q", "2:4", "--criterion", "features", "--out", "run", *small, *SHORT]
    assert "stability" not in right(*words, "--dry-run").out and not (tmp_path / "run").exists()
    result = right(*words)
    chosen = json.loads((tmp_path / "run" / "count_selection.json").read_text())
    assert f"selected {chosen['count']} clusters" in result.out and len(chosen["scores"]) == 3
    assert f"count = {chosen['count']}" in (tmp_path / "run" / "recipe.toml").read_text()
    assert "stability" not in right(*words).out


def test_a_class_conditional_model_is_a_classifier(right, told_run, tmp_path):
    """``assign`` reports its accuracy."""
    flags = ["--e-step-probes", "1", "--e-step-refine", "0", "--json", "accuracy.json"]
    result = right("assign", told_run, "digits", "-n", "10", *flags)
    assert "classifier accuracy" in result.out
    assert 0 <= json.loads((tmp_path / "accuracy.json").read_text())["classifier_accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["digits", "-q", "ten"], ("-q ten", "5:20")),
        (["digits", "-q", "1"], ("-q 1", "2 or more")),
        (["digits", "-q", "auto", "--criterion", "bound"], ("-q auto", "--criterion bound", "-q 5:20")),
        (["digits", "-q", "9:3"], ("-q 9:3", "ascending")),
        (["digits", "-q", "3", "-n", "1"], ("-n 1", "at least 2")),
        (["digits", "-q", "9", "-n", "5", "--steps", "2"], ("5 images", "9 clusters", "smaller -q")),
        (["nowhere", "-q", "3"], ("nowhere",)),
        (["digits", "-q", "3", "--given", "no.csv"], ("no.csv", "index and label")),
        (["digits", "-q", "3", "--features", "no.npy"], ("no.npy", ".parquet")),
        (["digits", "-q", "3", "--clustering.init", "features", "--steps", "2"], ("--features FILE",)),
        (["digits", "-q", "3", "--clustering.features", "x.npy"], ("init encoder", "set init features")),
        (["digits", "-q", "3", "--clustering.init", "magic"], ("clustering.init", "encoder")),
        (["digits", "-q", "3", "--clustering.rouns", "2"], ("clustering.rouns", "clustering.rounds")),
        (["digits", "-q", "3", "--json", "x.txt"], ("x.txt", ".json")),
    ],
    ids=lambda w: " ".join(w) if isinstance(w, list) else "",
)
def test_errors_of_cluster(wrong, words, expected):
    """One line each."""
    wrong("cluster", *words, message=expected, notes=True)


def test_errors_of_assign(wrong, run, tmp_path):
    """An unconditional model, an unknown format, a number out of range."""
    wrong("assign", run, "digits", message=("no clusters or classes", "fromnoise cluster"))
    wrong("assign", run, "digits", "--out", "x.txt", message=("x.txt", ".csv"))
    wrong("assign", run, "digits", "--candidates", "0", message=("--candidates 0", "at least 1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "columns index and label"),
        ("index,label\nx,y\n", "columns index and label"),
        ("index,label\n99999,y\n", "image 99999"),
        ("index,label\n", "no rows"),
        ("index,label\n0,a\n1,b\n2,c\n3,d\n", "larger -q"),
    ],
)
def test_errors_of_a_table_of_given_labels(wrong, tmp_path, small, few, text, message):
    """The message names the file and the problem."""
    (tmp_path / "known.csv").write_text(text)
    wrong("cluster", few, "-q", "3", *small, *SHORT, "--given", "known.csv", message=("known.csv", message), notes=True)
