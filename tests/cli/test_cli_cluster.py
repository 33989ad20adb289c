"""Sorting from the command line: a folder that samples and assigns, and mistakes in one line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

FEW = [
    "--clustering.encoder_steps",
    "3",
    "--clustering.encoder_batch",
    "16",
    "--clustering.rounds",
    "2",
    "--steps",
    "4",
]
FEW += ["--diffusion.steps", "20", "--clustering.then", "1", "--network.patch", "2"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file of 60 digits with their labels."""
    digits = load_digits()
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, images=(digits.images[:60] * 15).astype(np.uint8), labels=digits.target[:60])
    return path


@pytest.fixture(scope="module")
def clustered(tmp_path_factory, small, few):
    """A run folder of a few steps. Not to be written to."""
    from calling import call

    out = tmp_path_factory.mktemp("clustered") / "run"
    said = call("cluster", few, "-q", "3", "-n", "50", "--out", out, *small, *FEW, "--json", out.parent / "found.json")
    assert said.code == 0, said.err
    return out


def test_what_a_run_leaves(clustered):
    """A table in data order, a page, and scores of both sortings."""
    rows = list(csv.DictReader((clustered / "assignments.csv").open()))
    assert len(rows) == 50 and list(rows[0]) == ["index", "cluster", "probability", "label"]
    index = [int(r["index"]) for r in rows]
    assert index == sorted(index) and {r["cluster"] for r in rows} <= {"0", "1", "2"}
    assert all(1 / 3 <= float(r["probability"]) <= 1 for r in rows)
    found = json.loads((clustered.parent / "found.json").read_text())
    assert found["images"] == 50 and len(found["rounds"]) == 2 and set(found["scores"]) == {"start", "em"}
    for name in (
        "report.html",
        "report.md",
        "clusters.png",
        "map.png",
        "bound.png",
        "rounds.json",
        "assignments.parquet",
    ):
        assert (clustered / name).stat().st_size > 0
    page = (clustered / "report.md").read_text()
    assert "fromnoise cluster" in page
    assert all(f"{key} {value}" in page for key, value in zip(FEW[::2], FEW[1::2], strict=True))


def test_every_image_of_a_set_is_sorted(right, small, few, tmp_path):
    """Also those that were held out; in data order, with every probability in the parquet file."""
    import pandas

    right("cluster", few, "-q", "2", "--out", "run", *small, *FEW)
    table = pandas.read_parquet(tmp_path / "run" / "assignments.parquet")
    assert table["index"].tolist() == list(range(60))
    assert abs(table[["p_0", "p_1"]].sum(axis=1) - 1).max() < 1e-6
    assert table["label"].tolist() == [str(k) for k in load_digits().target[:60]]


def test_the_number_of_clusters_is_chosen(right, small, few, tmp_path):
    """A folder for each, and the best is named."""
    said = right("cluster", few, "-q", "2:3", "--out", "runs", *small, *FEW)
    assert "the bound is best with" in said.out
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"q02", "q03"}


def test_a_cluster_is_a_label(clustered, few, right, tmp_path):
    """Sampling and assigning know the clusters by number."""
    right("sample", clustered, "--label", "2", "-n", "2", "--steps", "2", "--out", "two.png")
    said = right("assign", clustered, few, "-n", "20", "--out", "new.csv", "--json", "new.json")
    assert "accuracy" in said.out
    rows = list(csv.DictReader((tmp_path / "new.csv").open()))
    assert len(rows) == 20
    assert json.loads((tmp_path / "new.json").read_text())["forwards"] == 2 * (3 + 3)


def test_the_same_command_goes_on(clustered, small, few, right):
    """A finished run is left as it is."""
    before = (clustered / "model.safetensors").read_bytes()
    right("cluster", few, "-q", "3", "-n", "50", "--out", clustered, *small, *FEW)
    assert (clustered / "model.safetensors").read_bytes() == before


def test_given_labels_name_clusters(right, small, few, tmp_path):
    """And stay."""
    (tmp_path / "known.csv").write_text("index,label\n0,ring\n1,bar\n5,ring\n")
    right("cluster", few, "-q", "3", "--out", "run", *small, *FEW, "--given", "known.csv")
    rows = {int(r["index"]): r for r in csv.DictReader((tmp_path / "run" / "assignments.csv").open())}
    for index, name in ((0, "ring"), (1, "bar"), (5, "ring")):
        assert rows[index]["cluster"] == name and float(rows[index]["probability"]) == 1
    right("sample", "run", "--label", "ring", "-n", "1", "--steps", "2", "--out", "ring.png")


def test_a_labelled_model_is_a_classifier(right, told_run):
    """Its accuracy is told."""
    said = right("assign", told_run, "digits", "-n", "10", "--first", "1", "--then", "0")
    assert "classifier accuracy" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits", "-q", "ten"], ("-q ten", "5:20")),
        (["digits", "-q", "1"], ("-q 1", "2 or more")),
        (["digits", "-q", "9:3"], ("-q 9:3", "rise")),
        (["digits", "-q", "3", "-n", "1"], ("-n 1", "at least 2")),
        (["digits", "-q", "9", "-n", "5", "--steps", "2"], ("5 images", "9 clusters", "smaller -q")),
        (["nowhere", "-q", "3"], ("nowhere",)),
        (["digits", "-q", "3", "--given", "no.csv"], ("no.csv", "index and label")),
        (["digits", "-q", "3", "--clustering.start", "magic"], ("clustering.start", "encoder")),
        (["digits", "-q", "3", "--clustering.rouns", "2"], ("clustering.rouns", "clustering.rounds")),
        (["digits", "-q", "3", "--json", "x.txt"], ("x.txt", ".json")),
    ],
    ids=lambda w: " ".join(w) if isinstance(w, list) else "",
)
def test_mistakes(wrong, words, told):
    """One line each."""
    wrong("cluster", *words, told=told, notes=True)


def test_mistakes_of_assign(wrong, run, tmp_path):
    """Of a model that knows no clusters, a wrong file, a number."""
    wrong("assign", run, "digits", told=("no clusters nor classes", "fromnoise cluster"))
    wrong("assign", run, "digits", "--out", "x.txt", told=("x.txt", ".csv"))
    wrong("assign", run, "digits", "--keep", "0", told=("--keep 0", "at least 1"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "index,label\nx,y\n", "index,label\n99999,y\n", "index,label\n"])
def test_a_wrong_table(wrong, tmp_path, small, few, text):
    """Told by name."""
    (tmp_path / "known.csv").write_text(text)
    wrong("cluster", few, "-q", "3", *small, *FEW, "--given", "known.csv", told="known.csv", notes=True)
