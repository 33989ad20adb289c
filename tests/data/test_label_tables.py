"""Label tables: classes and attributes of images in a CSV or JSON file beside them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import data
from fromnoise.utils.errors import UserError

FILES = ["a.png", "b.png", "deep/c.png", "deep/d.png"]


@pytest.fixture
def folder(tmp_path):
    """``folder(name, text)`` makes a folder of four images, whose brightness is 10 times their index, and a table."""

    def maker(name, text):
        for i, file in enumerate(FILES):
            (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / "set" / file)
        (tmp_path / "set" / name).write_text(text)
        return tmp_path / "set"

    return maker


def class_indices(source):
    """Class of each image, by its file name."""
    return {source.name(i).split("/")[-1]: source.label(i) for i in range(len(source))}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,label\na.png,cat\nb.png,dog\ndeep/c.png,cat\ndeep/d.png,dog\n"),
        ("labels.csv", "\ufeffage,Class,file_name\n1,cat,a.png\n2,dog,b.png\n3,cat,c.png\n4,dog,d.png\n"),
        ("metadata.csv", "picture,kind\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"),
        ("labels.json", json.dumps({"a.png": "cat", "b.png": "dog", "deep/c.png": "cat", "d.png": "dog"})),
        ("labels.json", json.dumps([{"file": f, "label": x} for f, x in zip(FILES, "xyxy", strict=True)])),
        ("dataset.json", json.dumps({"labels": [[f, k] for f, k in zip(FILES, (5, 7, 5, 7), strict=True)]})),
    ],
)
def test_classes(folder, name, text):
    """Files are found by path or by name; the table takes precedence over the folders' names."""
    source = data.open_source(str(folder(name, text)))
    assert class_indices(source) == {"a.png": 0, "b.png": 1, "c.png": 0, "d.png": 1}
    assert source.class_names in (("cat", "dog"), ("x", "y"), ("5", "7"))


def test_classes_in_an_archive(folder, tmp_path):
    """The same in a .zip archive in which one folder contains everything."""
    root = folder("labels.csv", "file,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in root.rglob("*.*"):
            archive.write(path, f"around/{path.relative_to(root)}")
    assert class_indices(data.open_source(str(tmp_path / "x.zip"))) == {"a.png": 0, "b.png": 1, "c.png": 0, "d.png": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,age,height\na.png,10,1.5\nb.png,20,1.6\nc.png,30,1.7\nd.png,40,1.8\n"),
        ("attributes.json", json.dumps({f: {"age": 10 + 10 * i, "height": 1.5 + i / 10} for i, f in enumerate(FILES)})),
    ],
)
def test_attributes(folder, name, text):
    """Each image has its own values, in their units; mean and deviation are over the training images."""
    loaded = data.load(str(folder(name, text)), attributes=True, seed=3)
    assert [a.name for a in loaded.attributes] == ["age", "height"] and loaded.class_names is None
    for images in (loaded.train, loaded.held_out):
        index = images.get(torch.arange(len(images)))[:, 0, 0, 0].float() / 10
        expected = torch.stack([10 + 10 * index, 1.5 + index / 10], 1)
        assert torch.allclose(images.labels, expected)
    ages = 10 + loaded.train.get(torch.arange(len(loaded.train)))[:, 0, 0, 0].double()
    assert loaded.attributes[0].mean == pytest.approx(float(ages.mean()))
    assert loaded.attributes[0].deviation == pytest.approx(float(ages.std(correction=0)))


def test_attributes_without_names(folder):
    """Attributes of a list are numbered."""
    text = json.dumps({f: [i, -i] for i, f in enumerate(FILES)})
    assert [a.name for a in data.load(str(folder("labels.json", text)), attributes=True).attributes] == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.json", "{", "labels.json"),
        ("labels.json", "3", "labels.json"),
        ("labels.csv", "just words", "two columns"),
        ("labels.csv", "", "two columns"),
    ],
)
def test_tables_that_cannot_be_parsed(folder, name, text, message):
    """The error names the table or its fault."""
    with pytest.raises(UserError, match=message):
        data.open_source(str(folder(name, text)))


def test_missing_attributes(folder):
    """Of some images, or of all."""
    with pytest.raises(UserError, match="attributes of every image"):
        data.load(str(folder("labels.csv", "file,age,size\na.png,1,2\n")), attributes=True)
    with pytest.raises(UserError, match="attributes of every image"):
        data.load("digits", attributes=True)
