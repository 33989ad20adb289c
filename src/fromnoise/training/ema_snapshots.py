"""Snapshots of two power-function averages, from which the average of any width is computed afterwards.

Karras et al. 2024, sec. 3.2 and app. C. The average of exponent g at time t weighs the weights at time u <= t by the
profile p(u) = (g + 1) u^g / t^(g + 1), so a linear combination of averages has the combination of their profiles. The
average of another width is that combination of all snapshots whose profile is nearest to the wanted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise import checkpoint
from fromnoise.config import EMAConfig
from fromnoise.optim.parts import local, local_parts, whole
from fromnoise.training.power_average import power_function_exponent
from fromnoise.utils.errors import UserError

FOLDER = "snapshots"
_KIND = "snapshot"
_HALF = 6e4  # larger numbers are stored in float32


class SnapshotAverages:
    """The averages that are stored: at step t, average <- d average + (1 - d) weights, d = (1 - k / t)^(g + 1).

    They are updated in every k-th step only (``ema.snapshot_every``), which makes their cost small.

    Attributes:
        step: of the last update, 0 before the first.
    """

    def __init__(self, config: EMAConfig, parameters: dict[str, Tensor]) -> None:
        """Start at the current weights.

        Args:
            config: widths and interval.
            parameters: that are averaged, by name.
        """
        self._config, self._parameters, self.step = config, parameters, 0
        self._exponents = [power_function_exponent(width) for width in config.snapshot_widths]
        self._averages = [{name: p.detach().clone() for name, p in parameters.items()} for _ in self._exponents]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages, if this is one of the steps that do.

        Args:
            step: number of the optimizer step, from 1.
        """
        every = self._config.snapshot_every
        if (step - 1) % every:
            return
        self.step, kept = step, 1 - min(every, step) / step
        parameters = local_parts(self._parameters.values())
        for average, exponent in zip(self._averages, self._exponents, strict=True):
            torch._foreach_lerp_(local_parts(average.values()), parameters, 1 - kept ** (exponent + 1))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, under ``snapshot.INDEX.PARAMETER``, and the step."""
        tensors = {f"snapshot.{i}.{n}": t for i, average in enumerate(self._averages) for n, t in average.items()}
        return tensors | {"snapshot.step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.step = int(state["snapshot.step"])
        for i, average in enumerate(self._averages):
            for name, t in average.items():
                local(t).copy_(state[f"snapshot.{i}.{name}"])

    def save(self, run: Path, main: bool = True) -> Path:
        """Write a snapshot: both averages in float16, which keeps 11 bits of each number.

        Of sharded parameters all processes call it together.

        Args:
            run: the run directory.
            main: whether this process writes.

        Returns:
            The file, named by the step of the last update.

        Raises:
            UserError: it cannot be written.
        """
        path = run / FOLDER / f"{self.step:09d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for i, average in enumerate(self._averages):
            for name, t in average.items():
                values = whole(t)
                if main:
                    tensors[f"{i}.{name}"] = _half(values).cpu()
        if main:
            checkpoint.write(path, tensors, {"kind": _KIND, "step": self.step, "widths": self._config.snapshot_widths})
        return path


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.numel() and float(tensor.abs().max()) < _HALF else tensor


def snapshot_files(run: Path) -> dict[int, Path]:
    """The snapshots of a run directory by their step, in order."""
    files = {path.stem: path for path in sorted((run / FOLDER).glob("*.safetensors"))}
    return {int(stem): path for stem, path in files.items() if stem.isdecimal()}


def drop_later(run: Path, step: int) -> None:
    """Delete the snapshots after a step, from which a run is resumed: it makes them again."""
    for at, path in snapshot_files(run).items():
        if at > step:
            path.unlink(missing_ok=True)


# ---- the average of another width


def inner_product(exponent_a: float, time_a: float, exponent_b: float, time_b: float) -> float:
    """Integral of the product of two profiles over all times (Karras et al. 2024, app. C, algorithm 3).

        (a + 1) (b + 1) / (a + b + 1)  s^b / t^(b + 1)     for the times s <= t, b the exponent of the later one

    Args:
        exponent_a: of the first profile.
        time_a: its end, positive.
        exponent_b: of the second.
        time_b: its end.
    """
    if time_a > time_b:
        exponent_a, time_a, exponent_b, time_b = exponent_b, time_b, exponent_a, time_a
    scale = (exponent_a + 1) * (exponent_b + 1) / (exponent_a + exponent_b + 1)
    return scale * (time_a / time_b) ** exponent_b / time_b


def reconstruction_weights(
    profiles: Sequence[tuple[float, float]], width: float, time: float
) -> tuple[np.ndarray, float]:
    """The weights x with which stored averages are added up: the least-squares solution of A x = b.

    A holds the inner products of the stored profiles, b theirs with the wanted profile (app. C, algorithm 3).

    Args:
        profiles: relative width and time of each stored average, all different.
        width: relative width of the wanted average.
        time: its time.

    Returns:
        Weights, float64 (N,), and the distance of the profile from the wanted one in L2, relative to that one's norm.
    """
    known = [(power_function_exponent(w), t / time) for w, t in profiles]
    wanted = (power_function_exponent(width), 1.0)
    products = np.array([[inner_product(*p, *q) for q in known] for p in known])
    right = np.array([inner_product(*p, *wanted) for p in known])
    scale = 1 / np.sqrt(np.diag(products))  # profiles of norm 1: early ones are high and narrow
    solution = np.linalg.lstsq(products * np.outer(scale, scale), right * scale, rcond=1e-12)[0] * scale
    norm = inner_product(*wanted, *wanted)
    missed = norm - 2 * solution @ right + solution @ products @ solution
    return solution, float(np.sqrt(max(0.0, missed) / norm))


class Snapshots:
    """The snapshots of a run, and the averages that are computed from them.

    Attributes:
        step: of the last one, at which averages end.
        profiles: relative width and step of each stored average.
    """

    def __init__(self, run: str | Path) -> None:
        """Read the headers of the files.

        Raises:
            UserError: there are none, or one is damaged.
        """
        self._files = snapshot_files(Path(run))
        if not self._files:
            raise UserError(
                f"{run} has no snapshots of averages: train it with --ema.snapshots 8 (recipe fast has them)"
            )
        self.step = max(self._files)
        self.profiles: list[tuple[float, float]] = []
        for step, path in self._files.items():
            self.profiles += [(width, float(step)) for width in _widths(path, checkpoint.read_header(path))]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self._files.values())

    def average(self, width: float) -> tuple[dict[str, Tensor], float]:
        """The average of a relative width at the last snapshot.

        Args:
            width: in (0, 0.28).

        Returns:
            Parameters by name, float32, and the distance of its profile as of ``reconstruction_weights``.

        Raises:
            ValueError: the width is out of range.
            UserError: a file is damaged.
        """
        weights, missed = reconstruction_weights(self.profiles, width, float(self.step))
        found: dict[str, Tensor] = {}
        remaining = iter(weights.tolist())
        for path in self._files.values():
            tensors, header = checkpoint.read(path)
            for i, _ in enumerate(_widths(path, header)):
                factor, prefix = next(remaining), f"{i}."
                for name in (n for n in tensors if n.startswith(prefix)):
                    added = tensors[name].double() * factor
                    key = name.removeprefix(prefix)
                    found[key] = found[key] + added if key in found else added
        return {name: t.float() for name, t in found.items()}, missed


def _widths(path: Path, header: dict[str, Any]) -> list[float]:
    """The relative widths of the averages in a file.

    Raises:
        DamagedFile: it is no snapshot.
    """
    found = header.get("widths")
    widths: list[Any] = found if isinstance(found, list) else []
    valid = all(isinstance(w, float) and 0 < w < 0.28 for w in widths)
    if header.get("kind") != _KIND or not widths or not valid or header.get("step") != int(path.stem):
        raise checkpoint.DamagedFile(f"{path} is not a snapshot of averages: delete it")
    return widths
