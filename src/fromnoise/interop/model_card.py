"""The model card of a run: README.md with the metadata that the hub reads, made from what the run holds alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromnoise import __version__, registry
from fromnoise.checkpoint import LoadedModel
from fromnoise.config import Recipe, to_toml
from fromnoise.data.spec import parse_spec
from fromnoise.interop.source import read_json
from fromnoise.model import Model
from fromnoise.reporting.documents import Block, BulletList, Code, Figure, Heading, Table, Text, to_markdown
from fromnoise.reporting.formatting import format_duration
from fromnoise.run_dir import RunDir
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import HubName
from fromnoise.utils.reading import printable

_PREDICTION = {"eps": "epsilon", "v": "v"}
_OF_THE_RECIPE = re.compile(r"(about|cost|quality|expected_loss|loss_source) = ")
"""Lines of a recipe that describe other runs of it than this one."""
_METRIC_HEAD = ("metric", "samples", "real images", "n", "features")


TRAINING_DATA = "the training data"
UNNAMED = "files of the owner, which are not named"


def public_source(source: str) -> str:
    """A data SPEC if anyone can have the data by it; empty for a path of this machine."""
    try:
        known = source.startswith("hub:") or (source and parse_spec(source)[0] in registry.names("dataset"))
    except UserError:
        known = False
    return source if known else ""


@dataclass(frozen=True)
class Card:
    """What a card is made from.

    Attributes:
        name: of the repository.
        loaded: the model.
        recipe: as it is published.
        license: its identifier on the hub; None if none is stated.
        samples: a grid of samples with its caption; None for none.
    """

    name: HubName
    loaded: LoadedModel
    recipe: Recipe
    license: str | None
    samples: Figure | None

    @property
    def title(self) -> str:
        """The name without its owner."""
        return self.name.repository.split("/")[1]

    def metadata(self) -> str:
        """The YAML at the beginning; texts are written as JSON, which YAML contains."""
        info, source = self.loaded.model.dataset_info, self.recipe.data.source
        lines = ["library_name: fromnoise"]
        if not info.is_conditional:
            lines.append("pipeline_tag: unconditional-image-generation")
        if self.license is not None:
            lines.append(f"license: {json.dumps(self.license)}")
        if source.startswith("hub:"):
            lines += ["datasets:", f"- {json.dumps('/'.join(source[4:].split(':')[0].split('/')[:2]))}"]
        lines += ["tags:", "- diffusion", "- ddpm", *(["- class-conditional"] if info.class_names else [])]
        return "\n".join(["---", *lines, "---", ""])

    def readme(self) -> str:
        """The whole README.md."""
        model = self.loaded.model
        blocks: list[Block] = [
            Heading(self.title, 1),
            Text(f"A denoising diffusion model of {_images(model)}: {_network(model)}. Trained by fromnoise."),
        ]
        if self.samples is not None:
            blocks += [Heading("Samples"), self.samples]
        blocks += [Heading("Use"), Code(self._use())]
        blocks += [Heading("Data"), BulletList(list(self._data()))]
        blocks += [Heading("Training"), BulletList(list(_training(self.loaded)))]
        blocks += [Heading("Metrics"), *_metrics(self.loaded)]
        recipe = [line for line in to_toml(self.recipe).splitlines() if not _OF_THE_RECIPE.match(line)]
        blocks += [Heading("Recipe"), Code("\n".join(recipe).strip())]
        stated = self.license if self.license is not None else "none is stated; ask the owner"
        return self.metadata() + to_markdown([*blocks, Heading("Licence"), Text(f"{stated}.")])

    def _use(self) -> str:
        names = self.loaded.model.dataset_info.class_names
        label = f", label={names[0]!r}" if names else ""
        flag = " --label all" if names else ""
        return (
            f'import fromnoise as fn\n\nmodel = fn.load("{self.name}")\n'
            f"images = model.sample(16, seed=0{label})  # uint8 (16, C, H, W)\n\n"
            f"# on the command line\n# fromnoise sample {self.name} -n 16{flag} --out samples.png"
        )

    def _data(self) -> Iterator[str]:
        info, source = self.loaded.model.dataset_info, self.recipe.data.source
        yield f"images: {source or UNNAMED}"
        yield f"shape: {'x'.join(map(str, info.shape))} (channels, height, width)"
        yield f"fingerprint: {info.fingerprint or 'not recorded'}"
        if info.class_names is not None:
            shown = ", ".join(info.class_names[:50]) + (", ..." if len(info.class_names) > 50 else "")
            yield f"classes: {len(info.class_names)} ({shown})"
        for attribute in info.attributes or ():
            yield f"attribute {attribute.name}: mean {attribute.mean:.4g}, standard deviation {attribute.deviation:.4g}"


def model_spec(card: Card) -> dict[str, str]:
    """Metadata of a safetensors file after ModelSpec 1.0.1 (Stability AI), for programs that list models."""
    model = card.loaded.model
    height, width = model.dataset_info.shape[1:]
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": f"fromnoise-{card.recipe.network.kind}",
        "implementation": "fromnoise",
        "title": card.title,
        "resolution": f"{width}x{height}",
        "license": card.license,
        "prediction_type": _PREDICTION.get(card.recipe.diffusion.target.kind),
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value is not None}


def _images(model: Model) -> str:
    channels, height, width = model.dataset_info.shape
    names = model.dataset_info.class_names
    kind = f" of {len(names)} classes" if names else " with attributes" if model.dataset_info.attributes else ""
    return f"{height}x{width} images with {channels} channel{'s' if channels > 1 else ''}{kind}"


def _network(model: Model) -> str:
    config = model.recipe.diffusion
    return f"network {model.recipe.network.kind} with {model.parameters:,} parameters, target {config.target.kind}"


def _training(loaded: LoadedModel) -> Iterator[str]:
    """What the progress and the reports of a run say."""
    step = loaded.progress.get("step")
    reports = _reports(loaded)
    if type(step) is int and step > 0:
        yield f"steps: {step:,}"
    if reports:
        last = reports[-1]
        yield f"images seen: {last['images']:,}, in {format_duration(float(last['timing']['seconds']))}"
        held_out = next((r["held_out_loss"] for r in reversed(reports) if r.get("held_out_loss") is not None), None)
        if held_out is not None:
            yield f"held-out loss: {held_out:.4g}"
    else:
        yield "no reports: the model was imported, or saved without its run"
    yield f"published with fromnoise {__version__}"


def _reports(loaded: LoadedModel) -> list[dict[str, Any]]:
    return RunDir(loaded.path.parent).read_reports() if loaded.path.name == "model.safetensors" else []


def _metrics(loaded: LoadedModel) -> list[Block]:
    """The newest evaluation of the run, or its last evaluation during training."""
    for path in sorted(loaded.path.parent.glob("evaluation-*/report.json"), key=_number, reverse=True):
        try:
            report = read_json(path)
            rows = [row for evaluation in _own(report, loaded) for row in _rows(evaluation)]
        except (UserError, TypeError, AttributeError, KeyError, ValueError):
            continue  # another version wrote it, or it is damaged
        if rows:
            against = str(report.get("against"))
            named = against if against == TRAINING_DATA else public_source(against) or UNNAMED
            return [Text(f"Against {named}."), Table(_METRIC_HEAD, rows), Text(_ERRORS)]
    evaluation = next((r["evaluation"] for r in reversed(_reports(loaded)) if r.get("evaluation")), None)
    rows = list(_rows(evaluation)) if isinstance(evaluation, dict) else []
    if rows:
        return [
            Text("Measured during training, against the training images."),
            Table(_METRIC_HEAD, rows),
            Text(_ERRORS),
        ]
    return [Text("Not measured: fromnoise evaluate RUN before fromnoise push adds them.")]


_ERRORS = (
    "± is one standard error over sets of as many samples. The third column is the same metric of held-out real "
    "images, where it was measured. Compare values at equal n and with equal features only."
)


def _number(path: Path) -> int:
    found = re.fullmatch(r"evaluation-(\d{1,9})", path.parent.name)
    return int(found[1]) if found else -1


def _own(report: dict[str, Any], loaded: LoadedModel) -> list[dict[str, Any]]:
    """The evaluations of this run in a report, which may have others beside it."""
    found = report["evaluations"]
    own = [
        e for e in found if Path(re.split(r"[ ,]", e["name"])[0]).name in (loaded.path.parent.name, loaded.path.name)
    ]
    return found if len(found) == 1 else own


def _rows(evaluation: dict[str, Any]) -> Iterator[list[str]]:
    """A row for each number of an evaluation."""
    features = str(evaluation.get("features", "-"))
    several = f" ({printable(str(evaluation['name']))})" if " " in str(evaluation.get("name", "")) else ""
    for key, value in evaluation.items():
        if isinstance(value, dict) and {"value", "error", "n"} <= set(value):
            real = value.get("real_vs_real")
            real_cell = _pair(real, value["real_vs_real_error"]) if real is not None else "-"
            name = printable(key).replace("_", " ") + several
            own = str(value.get("features", features))
            yield [name, _pair(value["value"], value["error"]), real_cell, f"{value['n']:,}", printable(own)]


def _pair(value: float, error: float | None) -> str:
    return f"{value:.4g} ± {error:.2g}" if error is not None else f"{value:.4g}"
