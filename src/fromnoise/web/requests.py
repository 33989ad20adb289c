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
OPTION, SOLVER_OPTION = "option.", "solver."
"""Prefixes of the fields with options of the sampler, and of the inverse solver."""
Options = dict[str, float | bool | str]
MAX_STEPS, MAX_SIDE = 2000, 1024
DEMO_COUNT, DEMO_STEPS, DEMO_SIDE = 64, 250, 128
"""Samples, steps and sides of one request to a demonstration: visitors share a machine."""
EDITS = ("inpaint", "outpaint", "vary", "restore", "interpolate")
_LARGEST_SEED = 2**63 - 1


def shell(words: Sequence[str]) -> str:
    """The words of a command line, quoted for a shell."""
    return shlex.join(["fromnoise", *words])


def shown_path(path: Path) -> str:
    """A path as a command names it: relative to the working directory if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def component(fields: Fields, key: str) -> str | None:
    """The name of a component, or None.

    Raises:
        UserError: it cannot be one.
    """
    name = fields.optional_text(key)
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UserError(f"{key} {name[:40]!r} is not the name of a component")
    return name


def _options(fields: Fields, prefix: str = OPTION) -> Options:
    """The options of a component: fields named by the prefix and ``NAME``."""
    found: Options = {}
    for key in fields.values:
        if not key.startswith(prefix):
            continue
        text, name = fields.text(key), key.removeprefix(prefix)
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or not re.fullmatch(r"[\w.+-]{0,40}", text):
            raise UserError(f"{key[:60]!r} is not an option of a sampler or an inverse solver")
        if text:
            found[name] = _option_value(text)
    return found


def _sampler_options(fields: Fields) -> Options:
    found = _options(fields)
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


def _option_flags(options: Options) -> list[str]:
    """The flags of a component's options."""
    texts = {k: str(v).lower() if isinstance(v, bool) else f"{v}" for k, v in options.items()}
    return [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]


def _size(fields: Fields, most: int) -> str | None:
    size = fields.optional_text("size")
    if size is not None and not (
        re.fullmatch(r"\d{1,4}(x\d{1,4})?", size) and all(1 <= int(side) <= most for side in size.split("x"))
    ):
        raise UserError(f"size must be one or two sides from 1 to {most}, such as 32 or 32x48")
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
    options: Options = field(default_factory=dict)

    @staticmethod
    def parse(fields: Fields, demo: bool = False) -> SamplingRequest:
        """Read the fields of a form.

        Args:
            fields: of the form.
            demo: whether visitors of a demonstration share the machine, whose requests are smaller.

        Raises:
            UserError: a value is out of range.
        """
        most, steps, side = (DEMO_COUNT, DEMO_STEPS, DEMO_SIDE) if demo else (MAX_COUNT, MAX_STEPS, MAX_SIDE)
        count, seed = fields.integer("n", 16, 1, most), fields.integer("seed", 0, 0, _LARGEST_SEED)
        return SamplingRequest(
            count=count or 16,
            seed=seed or 0,
            sampler=component(fields, "sampler"),
            steps=fields.integer("steps", None, 1, steps),
            label=fields.optional_text("label"),
            guidance=fields.number("guidance", None, 0, 100),
            size=_size(fields, side),
            options=_sampler_options(fields),
        )

    def sampler_flags(self) -> list[str]:
        """The flags of the sampler and its options."""
        return (["--sampler", self.sampler] if self.sampler else []) + _option_flags(self.options)

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


def sample_command(run: str, request: SamplingRequest, out: str = "samples.png") -> list[str]:
    """The words of ``fromnoise sample`` that does the same."""
    return ["sample", run, *request.flags(), "--out", out]


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
        solver_options: of the inverse solver, by name.
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
    solver_options: Options = field(default_factory=dict)

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
            method=component(fields, "method"),
            depth=fields.number("depth", 0.5, 0.001, 1) or 0.5,
            points=fields.integer("points", 9, 2, 64) or 9,
            restore=fields.choice("restore", ("colorize", "upscale", "deblur")),
            factor=fields.number("factor", 2.0, 0.1, 64) or 2.0,
            solver_options=_options(fields, SOLVER_OPTION),
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
        if self.kind != "vary":
            words += (["--method", self.method] if self.method else []) + _option_flags(self.solver_options)
        return [*words, "--any-size", "--out", out]

    def to_json(self) -> dict[str, Any]:
        """For the computing process."""
        return asdict(self)
