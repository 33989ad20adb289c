"""A run in TensorBoard, trackio and W&B, read back by their own readers."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise import config as recipes
from fromnoise.run_dir import RunDir
from fromnoise.training.progress import StepReport
from fromnoise.training.tracking import Tracking, measurements
from fromnoise.training.trainer import Trainer
from fromnoise.utils.errors import UserError

SCALARS = {
    "train/loss": lambda r: r["loss"],
    "train/lr": lambda r: r["lr"],
    "train/grad_norm": lambda r: r["grad_norm"],
    "train/images_per_second": lambda r: r["timing"]["images_per_second"],
    "held_out/loss": lambda r: r.get("held_out_loss"),
    "held_out/loss_t0.3": lambda r: (r.get("loss_by_t") or [None] * 10)[3],
    "evaluation/frechet": lambda r: r.get("evaluation", {}).get("frechet", {}).get("value"),
    "evaluation/kernel_error": lambda r: r.get("evaluation", {}).get("kernel", {}).get("error"),
}
"""Where reports.jsonl has what a tracker records."""


def train(tiny: dict, out: Path, tracker: str, *, stop_after: int | None = None, **options) -> None:
    """Eight steps with two previews and two evaluations, or a part of them; a second call continues."""
    tiny |= {"train.previews": 2, "evaluation.times": 2, "evaluation.samples": 100, "evaluation.steps": 2}
    tiny |= {"evaluation.features": "pixels", "train.tracker": tracker, "train.checkpoint_steps": 3}
    tiny |= {f"train.tracker.{name}": value for name, value in options.items()}
    values = {key.replace(".", "__"): value for key, value in tiny.items()}
    trainer = Trainer("digits", out=out, device="cpu", precision="fp32", progress=False, steps=8, **values)
    for report in trainer:
        if report.step == stop_after:
            break


def expected(out: Path) -> dict[str, dict[int, float]]:
    """What reports.jsonl has, by name and step."""
    reports = RunDir(out).read_reports()
    found = {name: {r["step"]: get(r) for r in reports} for name, get in SCALARS.items()}
    return {name: {step: v for step, v in values.items() if v is not None} for name, values in found.items()}


def test_tensorboard_reads_what_was_measured(tiny: dict, tmp_path: Path) -> None:
    """TensorBoard's reader has the numbers of reports.jsonl once each, also of a run that was interrupted, and the
    previews pixel for pixel."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(tiny, out, "tensorboard", stop_after=5)  # saved at step 3: steps 4 and 5 are trained again
    train(tiny, out, "tensorboard")
    reader = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    for name, values in expected(out).items():
        assert len(values) >= 2
        events = reader.Scalars(name)
        assert [e.step for e in events] == list(values), name
        np.testing.assert_allclose([e.value for e in events], list(values.values()), rtol=1e-6)
    previews = reader.Images("samples")
    assert [e.step for e in previews] == [0, 4, 8]
    for event in previews:
        (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
        written = Image.open(out / "samples" / f"step_{event.step:08d}.png").convert("RGB")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "shown.png")), np.asarray(written))
    [text] = [e for e in reader.Tensors("recipe/text_summary")]
    assert b"network.width = 8" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_trackio_reads_what_was_measured(tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """trackio's interface has the same numbers, and the recipe as configuration."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    train(tiny, tmp_path / "run", "trackio", project="digits")
    [run] = trackio.Api().runs("digits")
    assert run.name == "run"
    assert run.config is not None and run.config["network.width"] == 8 and run.config["train.optimizer.kind"] == "adamw"
    recorded = SQLiteStorage.get_logs("digits", "run")
    for name, values in expected(tmp_path / "run").items():
        assert {r["step"]: r[name] for r in recorded if name in r} == pytest.approx(values), name


def test_no_tracker_records_nothing(tmp_path: Path) -> None:
    """By default a run has no tracker."""
    recipe = recipes.load("digits")
    assert recipe.train.tracker is None
    Tracking(recipe, tmp_path, 0, print).close()
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line names the extra, before anything is trained or written."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(UserError) as error:
        Trainer("digits", out=tmp_path / "run", train__tracker="wandb")
    assert str(error.value) == "train.tracker wandb needs the package wandb: pip install 'fromnoise[trackers]'"
    assert not (tmp_path / "run").exists()


def test_a_tracker_needs_a_run_directory() -> None:
    """In memory there is nothing to follow."""
    with pytest.raises(UserError, match="give out="):
        Trainer("digits", train__tracker="tensorboard")


def test_a_tracker_that_fails_is_given_up(tmp_path: Path) -> None:
    """One line, and training continues; a tracker that cannot be opened stops the run before it starts."""
    lines: list[str] = []
    tracking = Tracking(recipes.load("digits", {"train.tracker": "tensorboard"}), tmp_path, 0, lines.append)
    tracking._run._tracker.finish()
    tracking._run._tracker.writer = None
    report = StepReport(1, 128, 0.5, 1e-4, 0.1, 0, 0, 1.0, True)
    tracking.report(report)
    tracking.report(report)
    assert len(lines) == 1 and lines[0].startswith("train.tracker tensorboard failed: ")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="train.tracker tensorboard cannot be opened"):
        Tracking(recipes.load("digits", {"train.tracker": "tensorboard"}), tmp_path / "file", 0, print)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    """A dropped step has no loss to show."""
    report = StepReport(1, 128, float("nan"), 1e-4, 0.1, 1, 0, float("inf"), True, loss_by_t=[None, 0.25])
    found = dict(measurements(report, {"frechet": {"value": 3.0, "error": 0.5}}))
    assert "train/loss" not in found and "train/grad_norm" not in found
    assert found["held_out/loss_t0.5"] == 0.25 and "held_out/loss_t0.0" not in found
    assert found["evaluation/frechet"] == 3.0 and found["evaluation/frechet_error"] == 0.5


@pytest.mark.slow
def test_wandb_writes_offline(tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, W&B's own file has the numbers of reports.jsonl."""
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tiny, tmp_path / "run", "wandb", project="digits")
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    records, deadline = [], time.monotonic() + 60
    while not any(record.HasField("exit") for record in records) and time.monotonic() < deadline:
        time.sleep(0.1)  # W&B's own process writes the file, now and then after the run is closed
        records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(file.read_bytes())]
    recorded: dict[str, dict[int, float]] = {}
    for record in records:
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        for name in SCALARS.keys() & items.keys():
            recorded.setdefault(name, {})[items["_step"]] = items[name]
    assert recorded == {name: pytest.approx(values) for name, values in expected(tmp_path / "run").items()}
    assert (tmp_path / "run" / "wandb" / "run-id").read_text().strip() in file.name


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes, then LevelDB's log of 32 KiB blocks with records (crc, length, type)."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        if 0 < (left := -position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
