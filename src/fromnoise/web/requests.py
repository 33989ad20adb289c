"""What a request asks for, checked, and the command line that does the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fromnoise.utils.errors import UserError
from fromnoise.web.fields import Fields

MAX_COUNT = 256
"""Samples of one request."""
OPTION = "option."
"""Prefix of the fields with options of the sampler."""
MAX_STEPS = 2000
EDITS = ("inpaint", "outpaint", "vary", "restore", "interpolate")
_LARGEST_SEED = 2**63 - 1


def shell(words: Sequence[str]) -> str:
    """The words of a command line, quoted for a shell."""
    return shlex.join(["fromnoise", *words])


def shown_path(path: Path) -> str:
    """A path as a command names it: relative to the working directory if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _component(fields: Fields, key: str) -> str | None:
    name = fields.optional_text(key)
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"{key} {name[:40]!r} is not the name of a component")
    return name


def _options(fields: Fields) -> dict[str, float | bool | str]:
    """The options of the sampler: fields named ``option.NAME``."""
    found: dict[str, float | bool | str] = {}
    for key in fields.values:
        if not key.startswith(OPTION):
            continue
        text, name = fields.text(key), key.removeprefix(OPTION)
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or not re.fullmatch(r"[\w.+-]{0,40}", text):
            raise UserError(f"{key[:60]!r} is not an option of a sampler")
        if text:
            found[name] = _option_value(text)
    if found and not fields.optional_text("sampler"):
        raise UserError("choose a sampler to set its options")
    return found


def _option_value(text: str) -> float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else float(text)
    except ValueError:
        return text


def _option_text(value: float | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _size(fields: Fields) -> str | None:
    size = fields.optional_text("size")
    if size is not None and not (
        re.fullmatch(r"\d{1,4}(x\d{1,4})?", size) and all(1 <= int(side) <= 1024 for side in size.split("x"))
    ):
        raise UserError("size must be one or two sides from 1 to 1024, such as 32 or 32x48")
    return size


@dataclass(frozen=True)
class SamplingRequest:
    """The settings that samples and edits share.

    Attributes:
        count: number of samples.
        seed: of all noise.
        sampler: name; None for the recipe's.
        options: of the sampler, by name.
        steps: sampling steps; None for the recipe's, or the sampler's default.
        label: class or attributes, as ``--label`` takes them.
        guidance: scale of classifier-free guidance.
        size: of the samples, ``32`` or ``32x48``.
    """

    count: int = 16
    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    label: str | None = None
    guidance: float | None = None
    size: str | None = None
    options: dict[str, float | bool | str] = field(default_factory=dict)

    @staticmethod
    def parse(fields: Fields) -> SamplingRequest:
        """Read the fields of a form.

        Raises:
            UserError: a value is out of range.
        """
        count, seed = fields.integer("n", 16, 1, MAX_COUNT), fields.integer("seed", 0, 0, _LARGEST_SEED)
        return SamplingRequest(
            count=count or 16,
            seed=seed or 0,
            sampler=_component(fields, "sampler"),
            steps=fields.integer("steps", None, 1, MAX_STEPS),
            label=fields.optional_text("label"),
            guidance=fields.number("guidance", None, 0, 100),
            size=_size(fields),
            options=_options(fields),
        )

    def sampler_flags(self) -> list[str]:
        """The flags of the sampler and its options."""
        words = ["--sampler", self.sampler] if self.sampler else []
        for name, value in self.options.items():
            words.append(f"--{name.replace('_', '-')}={_option_text(value)}")
        return words

    def flags(self, size: bool = True) -> list[str]:
        """The flags of the command line; ``--size`` with ``size``."""
        words = ["-n", str(self.count)]
        words += self.sampler_flags()
        words += ["--steps", str(self.steps)] if self.steps else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += [f"--label={self.label}" if self.label.startswith("-") else "--label"] if self.label else []
        words += [self.label] if self.label and not self.label.startswith("-") else []
        words += ["--guidance", f"{self.guidance:g}"] if self.guidance is not None else []
        return words + (["--size", self.size] if self.size and size else [])

    def to_json(self) -> dict[str, Any]:
        """For the computing process."""
        return asdict(self)


def sample_command(run: Path, request: SamplingRequest, out: str = "samples.png", gif: str | None = None) -> list[str]:
    """The words of ``fromnoise sample`` that does the same."""
    words = ["sample", shown_path(run), *request.flags(), "--out", out]
    return words + (["--gif", gif] if gif else [])


@dataclass(frozen=True)
class EditRequest:
    """An edit of an image of a run.

    Attributes:
        kind: one of ``EDITS``.
        sampling: the settings of the samples.
        image: name of the image, below the run.
        mask: name of the mask, below the run.
        to: name of the other image of an interpolation, below the run.
        method: inverse solver; None for the default.
        depth: time t up to which noise is added.
        points: images of an interpolation.
        restore: colorize, upscale or deblur.
        factor: of the upscaling, or pixels of the blur.
    """

    kind: str
    sampling: SamplingRequest
    image: str
    mask: str | None = None
    to: str | None = None
    method: str | None = None
    depth: float = 0.5
    points: int = 9
    restore: str = "colorize"
    factor: float = 2.0

    @staticmethod
    def parse(fields: Fields) -> EditRequest:
        """Read the fields of a form.

        Raises:
            UserError: a value is missing or out of range.
        """
        kind = fields.choice("kind", EDITS)
        request = EditRequest(
            kind=kind,
            sampling=SamplingRequest.parse(fields),
            image=fields.text("image"),
            mask=fields.optional_text("mask"),
            to=fields.optional_text("to"),
            method=_component(fields, "method"),
            depth=fields.number("depth", 0.5, 0.001, 1) or 0.5,
            points=fields.integer("points", 9, 2, 64) or 9,
            restore=fields.choice("restore", ("colorize", "upscale", "deblur")),
            factor=fields.number("factor", 2.0, 0.1, 64) or 2.0,
        )
        if not request.image:
            raise UserError("choose an image first")
        if kind == "inpaint" and request.mask is None:
            raise UserError("paint on the image first: the painted pixels are sampled")
        if kind == "interpolate" and request.to is None:
            raise UserError("choose a second image first")
        return request

    def files(self) -> list[str]:
        """The names of the files that it reads."""
        return [name for name in (self.image, self.mask, self.to) if name is not None]

    def command(self, run: Path, out: str = "edited.png") -> list[str]:
        """The words of ``fromnoise edit`` that does the same."""
        words = ["edit", self.kind, shown_path(run), "--image", shown_path(run / self.image)]
        if self.kind == "interpolate":
            words += ["--to", shown_path(run / str(self.to)), "--depth", f"{self.depth:g}"]
            words += ["--points", str(self.points)]
            words += self.sampling.sampler_flags()
            words += ["--steps", str(self.sampling.steps)] if self.sampling.steps else []
            words += ["--seed", str(self.sampling.seed)] if self.sampling.seed else []
            return [*words, "--out", out]
        words += self.sampling.flags(size=self.kind == "outpaint")
        if self.kind == "inpaint":
            words += ["--mask", shown_path(run / str(self.mask))]
        if self.kind == "vary":
            words += ["--depth", f"{self.depth:g}"]
        if self.kind == "restore":
            words += [f"--{self.restore}"] + ([f"{self.factor:g}"] if self.restore != "colorize" else [])
        if self.method and self.kind != "vary":
            words += ["--method", self.method]
        return [*words, "--any-size", "--out", out]

    def to_json(self) -> dict[str, Any]:
        """For the computing process."""
        return asdict(self)


BUDGETS = ("minutes", "steps", "epochs")


@dataclass(frozen=True)
class TrainRequest:
    """A training to start.

    Attributes:
        recipe: name of a recipe of the package.
        data: SPEC of the data; None for the recipe's.
        budget: one of ``BUDGETS``; None for the recipe's.
        amount: of the budget.
        labels: condition the model on the classes of the data.
    """

    recipe: str
    data: str | None
    budget: str | None
    amount: float | None
    labels: bool

    @staticmethod
    def parse(fields: Fields, data_sets: dict[str, Path]) -> TrainRequest:
        """Read the fields of a form.

        Args:
            fields: of the form.
            data_sets: those of folders that may be chosen; another word is the name of a registered data set.

        Raises:
            UserError: a value is out of range.
        """
        recipe, data = _component(fields, "recipe"), fields.optional_text("data")
        if recipe is None:
            raise UserError("choose a recipe")
        if data is not None and data in data_sets:
            data = shown_path(data_sets[data])
        elif data is not None and not re.fullmatch(r"\w{1,60}", data):
            raise UserError(
                f"{data[:60]!r} is not one of the data sets that were named: add --data FOLDER to the command"
            )
        amount = fields.number("amount", None, 1e-3, 1e9)
        budget = fields.choice("budget", ("", *BUDGETS)) or None
        if budget is not None and amount is None:
            raise UserError(f"how many {budget}?")
        return TrainRequest(recipe, data, budget, amount if budget else None, fields.flag("labels"))

    def overrides(self) -> dict[str, Any]:
        """The keys of the recipe that it sets."""
        found: dict[str, Any] = {}
        if self.data is not None:
            found["data.source"] = self.data
        if self.budget is not None and self.amount is not None:
            found[f"train.{self.budget}"] = self._amount()
        return found | ({"data.labels": True} if self.labels else {})

    def _amount(self) -> int | float:
        assert self.amount is not None
        return int(self.amount) if self.amount == int(self.amount) else self.amount

    def command(self, out: Path) -> list[str]:
        """The words of ``fromnoise train``."""
        words = ["train", self.recipe]
        words += ["--data", self.data] if self.data is not None else []
        words += [f"--{self.budget}", f"{self._amount():g}"] if self.budget else []
        words += ["--data.labels", "true"] if self.labels else []
        return [*words, "--out", shown_path(out)]


def continue_command(run: Path) -> list[str]:
    """The words of ``fromnoise train`` that continues a run by its own recipe."""
    return ["train", shown_path(run / "recipe.toml"), "--out", shown_path(run)]
