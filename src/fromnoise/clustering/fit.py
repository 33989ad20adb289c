"""Sorting a set from recipe to page: opens the data, begins or goes on, loops, and leaves what was found."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from fromnoise import checkpoint
from fromnoise.clustering.em import EM, Round, respected
from fromnoise.clustering.init import begin
from fromnoise.config import Recipe
from fromnoise.config.recipe_data import open_data
from fromnoise.data import Data, Images, MemoryImages, shuffled_indices
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import Model, build
from fromnoise.run_dir import RunDir
from fromnoise.training.previews import Previews
from fromnoise.training.run import signals, status
from fromnoise.training.trainer import Trainer
from fromnoise.utils.device import ComputeConfig, select_device
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic

Log = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Images to be sorted.

    Attributes:
        data: with the images to sort as ``train``; their labels are ours to set.
        index: where each of them stands in the set, int64 (N,).
        labels: their true classes, int64 (N,); None if unknown.
        names: of the true classes.
        rest: images of the same set that were held out and are sorted at the end, with ``index`` and ``labels`` as
            above; None where what is held out is a split of its own, or not all images were asked for.
    """

    data: Data
    index: Tensor
    labels: Tensor | None
    names: tuple[str, ...] | None
    rest: tuple[Images, Tensor, Tensor | None] | None


@dataclass(frozen=True)
class ClusteringResult:
    """What a run found.

    Attributes:
        task: the images.
        model: with the averaged weights.
        q: probabilities of the clusters, float64 (N, Q).
        rest: the same of ``task.rest``, (M, Q); None if there is none, or the run was stopped.
        start: clusters before the first round, int64 (N,).
        rounds: what each E-step found.
        compute: where it ran.
        signal: number of the signal that stopped it early, or 0.
    """

    task: Task
    model: Model
    q: Tensor
    rest: Tensor | None
    start: Tensor
    rounds: list[dict[str, Any]]
    compute: ComputeConfig
    signal: int


def prepare(recipe: Recipe, limit: int | None, log: Log) -> Task:
    """The images of a recipe: all that are learned from, or so many of them.

    Raises:
        UserError: as ``data.load``; there are fewer images than clusters.
    """
    plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"labels": False})})
    data = open_data(plain, log)
    images = data.train
    chosen = torch.arange(len(images))
    if limit is not None and limit < len(images):
        chosen = shuffled_indices(len(images), recipe.train.seed, range(limit)).sort().values
    labels = images.labels[chosen] if images.labels is not None and data.class_names is not None else None
    index = images.rows[chosen]
    if len(chosen) < len(images):
        images = MemoryImages(images.get(chosen))
    if len(images) < recipe.clustering.count:
        raise UserError(f"{len(images)} images cannot make {recipe.clustering.count} clusters: take a smaller -q")
    images.labels = torch.zeros(len(images), dtype=torch.int64)  # the clusters that they will be told
    rows, others = data.held_out.rows, data.held_out.labels if data.class_names is not None else None
    one_split = not bool(torch.isin(rows, data.train.rows).any())
    rest = (data.held_out, rows, others) if one_split and limit is None else None
    data.held_out.labels = None
    return Task(replace(data, train=images, class_names=None), index, labels, data.class_names, rest)


def fitted(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with squares small enough for the images: at least four of them a side."""
    patch = recipe.network.patch
    while patch > 1 and 4 * patch > min(task.data.shape[1:]):
        patch //= 2
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"patch": patch})})


def model_of(recipe: Recipe, task: Task, names: tuple[str, ...] | None = None) -> Model:
    """A fresh model that is told clusters, called by number unless they have names."""
    names = names or tuple(map(str, range(recipe.clustering.count)))
    return build(recipe, DatasetInfo(task.data.shape, names, task.data.fingerprint))


def sort(
    recipe: Recipe,
    out: Path,
    *,
    limit: int | None = None,
    given: Path | None = None,
    first: Tensor | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> ClusteringResult:
    """Sort a set into clusters in a run folder, going on from where it was left.

    Args:
        recipe: every choice.
        out: the run folder.
        limit: how many images, drawn by the recipe's seed; None for all.
        given: a table of known clusters; see ``read_given``.
        first: a first belief of one's own, in place of ``cluster.start``'s, float64 (N, Q).
        device: as ``compute.choose``.
        precision: as ``compute.choose``.

    Raises:
        UserError: a mistake of the user's, told in one line.
    """
    folder = RunDir(out)

    def log(line: str) -> None:
        tqdm.write(line, file=sys.stderr)
        folder.log(line)

    compute = select_device(device, precision)
    task = prepare(recipe, limit, log)
    recipe = fitted(recipe, task)
    folder.check(recipe)
    table, names = read_given(given, task, recipe.clustering.count) if given else ({}, None)
    known = known_of(task.index, table) if given else None
    model = model_of(recipe, task, names)
    accelerator = Accelerator(cpu=compute.device.type == "cpu", mixed_precision="no", device_placement=False)
    trainer = Trainer(model, task.data, compute, accelerator, folder.load_state, log)
    folder.open(recipe)
    log(
        f"{len(task.index):,} images into {recipe.clustering.count} clusters; {model.parameters:,} parameters; "
        f"{compute.describe()}"
    )
    em, rounds = _begun(trainer, folder, compute, known, first, log)
    with signals(em.stop) as caught:
        _loop(em, rounds, folder, log)
    if not em.finished:
        log(f"stopped at step {trainer.progress.step:,}; the same command goes on from there")
    number = 0 if em.finished else (caught or [signal.SIGTERM])[0]
    rest = None
    if task.rest is not None and em.finished:
        rest = respected(em.assign(task.rest[0]), known_of(task.rest[1], table))
    trainer.refresh()
    final = replace(model, denoiser=trainer.averaged)
    return ClusteringResult(task, final, em.state.q, rest, em.state.start, rounds, compute, number)


def _begun(
    trainer: Trainer, folder: RunDir, compute: ComputeConfig, given: Tensor | None, first: Tensor | None, log: Log
) -> tuple[EM, list[dict[str, Any]]]:
    """The loop as it was left, or with a first q; and what its rounds found."""
    recipe, images = trainer.model.recipe, trainer.data.train
    state = folder.load_state()
    if state is not None:
        tensors, header = state
        _, was = checkpoint.parse_header(header)
        now = trainer.model.dataset_info
        if (was.shape, was.fingerprint, len(tensors["em.q"])) != (now.shape, now.fingerprint, len(images)):
            raise UserError(f"{folder.path} sorts other images: choose another --out")
        trainer.resume(tensors, header)
        em = EM(trainer, tensors["em.q"], given)
        em.resume(tensors, header["em"]["done"])
        folder.truncate_reports(trainer.progress.step)
        log(f"going on from step {trainer.progress.step:,}")
        return em, header["em"]["rounds"]
    began = time.monotonic()
    if first is None:
        with _bar(f"a first sorting by {recipe.clustering.start}") as bar:
            q = begin(images, recipe.clustering, compute, recipe.train.seed, lambda share: _to(bar, share))
    else:
        q = first
    trainer.progress.seconds = time.monotonic() - began  # it is part of a budget in minutes
    if given is not None:
        q = aligned(q, given)
    return EM(trainer, q, given), []


def aligned(q: Tensor, given: Tensor) -> Tensor:
    """The clusters renumbered so that they agree best with those that are given (N,), -1 where unknown."""
    from scipy.optimize import linear_sum_assignment

    known = given >= 0
    votes = torch.zeros(q.shape[1], q.shape[1], dtype=torch.float64)
    votes.index_add_(0, given[known], q[known])
    rows, columns = linear_sum_assignment(-votes.numpy())
    return q[:, torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]]


def _loop(em: EM, rounds: list[dict[str, Any]], folder: RunDir, log: Log) -> None:
    trainer = em.trainer
    recipe, waiting, saved = trainer.recipe, [], time.monotonic()

    def save() -> None:
        folder.write_reports(waiting)
        waiting.clear()
        tensors, header = trainer.state()
        header |= {"em": {"done": em.state.rounds, "rounds": rounds}}
        header |= checkpoint.model_header(trainer.model.recipe, trainer.model.dataset_info)
        folder.save_state(trainer.progress.step, tensors | em.tensors(), header)
        beliefs = {"shares": em.state.shares.tolist(), "plan": em.state.plan.tolist()}
        checkpoint.save_model(
            folder.model, trainer.model, trainer.weights(), {"step": trainer.progress.step, "mixture": beliefs}
        )
        write_atomic(folder.path / "rounds.json", (json.dumps(rounds, indent=1) + "\n").encode())

    if trainer.progress.step == 0 and not em.state.rounds:
        Previews(folder, trainer.compute).data(trainer.model, trainer.data)
        save()
    with _bar("") as bar:

        def on_progress(share: float) -> None:
            nonlocal saved
            bar.set_description_str(f"E-step {share:.0%}")
            if time.monotonic() - saved > recipe.checkpoint_seconds:
                save()
                saved = time.monotonic()

        for found in em.run(on_progress):
            if isinstance(found, Round):
                rounds.append(found.line())
                log(told(found))
                save()
                saved = time.monotonic()
                continue
            bar.set_description_str(status(found), refresh=False)
            _to(bar, found.progress)
            if found.kept:
                waiting.append(found.line())
            due = time.monotonic() - saved > recipe.checkpoint_seconds
            due |= recipe.checkpoint_steps is not None and found.step % recipe.checkpoint_steps == 0
            if (due and not trainer.progress.dropped_in_row) or trainer.stopping or found.progress >= 1:
                save()
                saved = time.monotonic()
    if not em.finished:
        save()


def told(found: Round) -> str:
    """A round in a line."""
    change = f" ({found.change.value:+.3f} +- {found.change.error:.3f})" if found.change else ""
    revived = f"; begun anew: {', '.join(map(str, found.revived))}" if found.revived else ""
    joined = "".join(f"; {b} joined to {a} and begun anew as half of {c}" for a, b, c in found.exchanged)
    return (
        f"round {found.number}, step {found.step:,}: bound {found.bound.value:.2f} +- {found.bound.error:.2f} nats"
        f"{change}, {found.moved:.2%} moved, sure of {found.sure:.3f}, smallest {min(found.shares):.3f}"
        f"{revived}{joined}"
    )


def _bar(words: str) -> tqdm[Any]:
    interval = 0.2 if sys.stderr.isatty() else 20.0
    form = "{percentage:3.0f}% {bar:24} {desc}"
    return tqdm(total=100.0, desc=words, bar_format=form, mininterval=interval, file=sys.stderr)


def _to(bar: tqdm[Any], share: float) -> None:
    bar.update(min(100.0, 100 * share) - bar.n)


def known_of(index: Tensor, table: dict[int, int]) -> Tensor:
    """The known cluster of each image, int64 (N,); -1 where there is none."""
    return torch.tensor([table.get(i, -1) for i in index.tolist()], dtype=torch.int64)


def read_given(path: Path, task: Task, clusters: int) -> tuple[dict[int, int], tuple[str, ...]]:
    """Known clusters from a CSV file with the columns ``index`` and ``label``.

    Args:
        path: of the file; ``index`` counts the images of the set from 0.
        task: the images.
        clusters: how many there are.

    Returns:
        The cluster by the number of the image; and the clusters' names, those of the file first, in alphabetical
        order.

    Raises:
        UserError: it cannot be read, lacks a column, names an image that there is not, or more labels than clusters.
    """
    import csv

    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
        pairs = [(int(row["index"]), row["label"].strip()) for row in rows]
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except (KeyError, ValueError, AttributeError, TypeError):
        raise UserError(f"{path} is no table of known labels: it needs the columns index and label") from None
    found = sorted({label for _, label in pairs})
    if not pairs or len(found) > clusters:
        raise UserError(f"{path} names {len(found)} labels for {clusters} clusters: take a larger -q")
    rest = (str(k) for k in range(2 * clusters) if str(k) not in found)
    names = tuple(found) + tuple(next(rest) for _ in range(clusters - len(found)))
    total = int(torch.cat([task.index, *([task.rest[1]] if task.rest else [])]).max()) + 1
    for index, _ in pairs:
        if not 0 <= index < total:
            raise UserError(f"{path} knows the label of image {index}, but there are {total} images")
    return {index: found.index(label) for index, label in pairs}, names
