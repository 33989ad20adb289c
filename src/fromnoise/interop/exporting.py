"""What an exporter is, and how one is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fromnoise import registry
from fromnoise.config import SamplingConfig
from fromnoise.interop.options import build_with_options
from fromnoise.model import AutoencoderModel, Model, with_sampler
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line


class Exporter(ABC):
    """Writes models for other programs; the typed attributes of a frozen dataclass are its options."""

    @abstractmethod
    def check_out(self, out: Path) -> None:
        """Check the path before the work; nothing is created.

        Raises:
            UserError: the model cannot be written there.
        """

    @abstractmethod
    def write(self, model: Model, out: Path) -> list[str]:
        """Write a model.

        Args:
            model: on the CPU.
            out: path of the result.

        Returns:
            One line for each thing that the user of the result must know.

        Raises:
            UserError: the model cannot be expressed exactly in the format; the message says why.
        """

    def write_autoencoder(self, model: AutoencoderModel, out: Path) -> list[str]:
        """Write an autoencoder; arguments and result as of ``write``. By default it is refused.

        Raises:
            UserError: the format has no autoencoders, or not this one; the message says why.
        """
        name = registry.name_of("exporter", self)
        raise UserError(f"an autoencoder cannot be exported --to {name}: use --to safetensors")

    def write_any(self, model: Model | AutoencoderModel, out: Path) -> list[str]:
        """Write a diffusion model or an autoencoder; as ``write``.

        Raises:
            UserError: as ``write`` and ``write_autoencoder``.
        """
        return self.write_autoencoder(model, out) if isinstance(model, AutoencoderModel) else self.write(model, out)


def sampling_with(model: Model, sampler: str | None, **values: Any) -> SamplingConfig:
    """The sampling configuration of a model with the options of an exporter.

    Args:
        model: whose recipe is changed; if it clips its predictions (``diffusion.clip_x0``), the sampling does.
        sampler: name of another sampler; None keeps that of the recipe.
        values: further keys; None keeps those of the recipe.

    Raises:
        UserError: there is no such sampler, or a value is out of range.
    """
    changed = {key: value for key, value in values.items() if value is not None}
    if model.denoiser.clip_x0:
        changed |= {"clip": True, "threshold": None}
    try:
        config = model.recipe.sample if sampler is None else with_sampler(model.recipe.sample, sampler)
        return SamplingConfig.model_validate(config.model_dump() | changed)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"][:1])) or "sampler"
        reason = first_line(ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")))
        raise UserError(f"--{key}: {reason}") from None


def without_autoguidance(config: SamplingConfig, guidance: float | None) -> tuple[SamplingConfig, list[str]]:
    """The configuration without the autoguidance of the recipe, which no exported loop has, and a line that says so.

    Args:
        config: as of ``sampling_with``.
        guidance: the option of the exporter; if it is given, nothing is changed.
    """
    if guidance is not None or not config.guides_by_early_version:
        return config, []
    return config.model_copy(update={"guidance": 1.0}), [
        f"without guidance: autoguidance, scale {config.guidance:g} in the recipe, cannot be exported"
    ]


def unwritten_guidance(model: Model, config: SamplingConfig) -> str | None:
    """What of the guidance an exported loop does not do; None if it does all.

    An exported loop has the scale of classifier-free guidance alone.
    """
    if config.guidance == 1:
        return None
    if (config.interval or config.interval_logsnr) is not None:
        return "a guidance interval"
    if config.guidance_method.kind != "classifier-free":
        return f"guidance method {config.guidance_method.kind}"
    if config.guidance_method.rescale != 0:
        return "rescaled guidance"
    return "guidance of clipped predictions (diffusion.clip_x0)" if model.denoiser.clip_x0 else None


def build_exporter(name: str, options: dict[str, Any]) -> Exporter:
    """An exporter from its options.

    Raises:
        UserError: an unknown exporter, option or value.
    """
    return build_with_options("exporter", "export to", name, options)


def export_model(
    model: Model | AutoencoderModel, out: str | Path, to: str, options: dict[str, Any] | None = None
) -> list[str]:
    """Write a model for another program.

    Args:
        model: to write.
        out: path of the result; nothing is overwritten.
        to: name of an exporter.
        options: of the exporter.

    Returns:
        As ``Exporter.write``.

    Raises:
        UserError: as ``Exporter.write``, or the path is taken.
    """
    exporter, path = build_exporter(to, options or {}), Path(out)
    exporter.check_out(path)
    return exporter.write_any(model, path)
