"""The lesser faults of review C on version 0.1: how many inputs of the tests raise anything but a UserError.

See ``version_0_1_numbers`` for the form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import malformed_inputs
import numpy as np
import torch
from sandbox import run
from version_0_1_faults import ending, load, three_images, write_model
from version_0_1_numbers import Finding, item, old


def raising(actions: Iterable[Callable[[], Any]]) -> Finding:
    """How many actions raise anything but a UserError, and what."""
    kinds, count = [], 0
    for action in actions:
        count += 1
        try:
            action()
        except old("errors").UserError:
            pass
        except Exception as error:
            kinds.append(type(error).__name__)
    names = ", ".join(sorted(set(kinds)))
    return bool(kinds), f"{len(kinds)} of {count} raise {names or 'nothing'}"


@item("Low: checkpoint", "safetensors headers of the tests")
def low_headers(folder: Path) -> Finding:
    """Each in a file."""
    (path := folder / "m.safetensors").touch()

    def read(header: str) -> None:
        path.write_bytes(malformed_inputs.safetensors(header))
        old("checkpoint").load_model(path)

    return raising((lambda h=h: read(h)) for h in malformed_inputs.SAFETENSORS_HEADERS)


@item("Low: sidecar", "tables of labels of the tests")
def low_label_tables(folder: Path) -> Finding:
    """Each beside three images."""
    images = three_images(folder)

    def read(name: str, content: str) -> None:
        (images / name).write_text(content)
        try:
            load(images)
        finally:
            (images / name).unlink()

    return raising((lambda t=t: read(*t)) for t in malformed_inputs.LABEL_TABLES)


@item("Low: arrays", "labels in .npz and IDX files of the tests")
def low_arrays(folder: Path) -> Finding:
    """Each in a file."""

    def labels(values: Any) -> None:
        np.savez(folder / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=values)
        load(folder / "x.npz")

    def idx(content: bytes) -> None:
        (folder / "x-images-idx3-ubyte").write_bytes(content)
        load(folder / "x-images-idx3-ubyte")

    actions = [lambda v=v: labels(v) for v in malformed_inputs.LABEL_ARRAYS]
    return raising([*actions, *(lambda c=c: idx(c) for c in malformed_inputs.IDX_FILES)])


@item("Low: tables", "metadata of parquet files of the tests")
def low_parquet(folder: Path) -> Finding:
    """Each in a file."""
    import pyarrow
    import pyarrow.parquet

    picture = (three_images(folder) / "0.png").read_bytes()

    def read(meta: bytes) -> None:
        table = pyarrow.table({"image": [picture] * 3}).replace_schema_metadata({b"huggingface": meta})
        pyarrow.parquet.write_table(table, folder / "x.parquet")
        load(folder / "x.parquet")

    return raising((lambda m=m: read(m)) for m in malformed_inputs.PARQUET_METADATA)


@item("Low: cli/train, recipe files", "values of the command line and texts of a .toml of the tests")
def low_values(folder: Path) -> Finding:
    """Each by ``train --dry-run``, or as a recipe."""

    def read(text: str) -> None:
        (folder / "x.toml").write_text(text)
        old("recipe.files").load(str(folder / "x.toml"))

    actions = [lambda t=t: old("cli.train").value(t) for t in malformed_inputs.COMMAND_LINE_VALUES]
    return raising([*actions, *(lambda t=t: read(t) for t in malformed_inputs.RECIPE_FILES)])


@item("Low: metrics/copies", "doctor on one image")
def low_one_image(folder: Path) -> Finding:
    """How it ends."""
    images = three_images(folder)
    for name in ("1.png", "2.png"):
        (images / name).unlink()
    outcome = run(("doctor", "images"), folder)
    return outcome.code != 0, ending(outcome)


@item("Low: features", "files of the feature cache with other headers")
def low_cached_features(folder: Path) -> Finding:
    """Each beside the weights of the network."""
    features, checkpoint = old("metrics.features"), old("checkpoint")
    net, path = old("metrics.network").classifier((1, 8, 8), 2), folder / "x.safetensors"

    def read(header: dict[str, Any]) -> None:
        renamed = dict(zip(["mark"], header.values(), strict=False))  # its name in version 0.1
        checkpoint.write(path, net.state_dict(), {"kind": "classifier"} | renamed)
        features._read(path, net)

    return raising((lambda h=h: read(h)) for h in malformed_inputs.FEATURE_HEADERS)


@item("Low: assign", "a class called like a formula, in the CSV")
def low_formulas(folder: Path) -> Finding:
    """Whether the name is written as it is."""
    name = malformed_inputs.FORMULA
    q = torch.eye(1, dtype=torch.float64)
    row = old("cluster.report").Assignments(torch.arange(1), q, (name,)).csv().decode().splitlines()[1]
    cell = row.split(",")[1]
    return cell == name, f"the cell is {cell}"


@item("Low: layers, unet", "headers of networks that cannot be built")
def low_networks(folder: Path) -> Finding:
    """Each in a file with a valid digest."""
    path = folder / "m.safetensors"

    def read(changes: dict[str, Any]) -> None:
        write_model(path, changes)
        old("checkpoint").load_model(path)

    heads = {"network.middle_attention": True, "network.heads": 7}
    hostile = [
        {"network.groups": 3},
        {"network.patch": 60_000},
        {"network.time_dim": 3},
        {"network.time_dim": 1},
        heads,
    ]
    return raising((lambda c=c: read(c)) for c in hostile)


@item("Low: pictures", "a grid of a class whose name has a million letters")
def low_long_names(folder: Path) -> Finding:
    """How wide it is."""
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    try:
        width = old("pictures").labelled_grid(images, torch.tensor([0, 1]), ("x" * 1_000_000, "b")).width
    except Exception as error:
        return True, f"{type(error).__name__}: {str(error)[:80]}"
    return width > 10_000, f"{width:,} pixels"
