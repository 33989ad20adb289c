"""Every line of docs/guide/migration.md runs in both columns, theirs where their package is installed."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fromnoise as fn
from foreign_packages import import_foreign, import_lucidrains
from fromnoise import cli
from fromnoise.diffusion import NoiseLevel, sampling_loop
from fromnoise.diffusion.rng import Noise
from fromnoise.diffusion.sampling import karras, uniform

PAGE = (Path(__file__).parents[1] / "docs" / "guide" / "migration.md").read_text(encoding="utf-8")


def tables() -> dict[str, list[tuple[str, str]]]:
    """The rows of each library's table: what stands in code in the two columns, or nothing."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, text in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| `")]
        cells = [[re.match(r"`([^`]+)`|", cell) for cell in row] for row in rows]
        assert all(len(row) == 2 for row in cells), title
        found[title] = [(left.group(1) or "", right.group(1) or "") for left, right in cells]  # type: ignore[union-attr]
    return found


def common() -> dict[str, Any]:
    """What the page says before the tables."""
    torch.manual_seed(0)
    x0 = torch.rand(16, 1, 16, 16) * 2 - 1
    return {"torch": torch, "fn": fn, "x0": x0, "noise": torch.randn_like(x0), "t": torch.arange(0, 992, 62)}


def run(lines: Iterator[str] | list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Execute lines of Python, and lines of the command line."""
    for line in lines:
        if line.startswith("fromnoise "):
            assert cli.main(shlex.split(line)[1:]) == 0, line
        elif line:
            exec(compile(line, line, "exec"), names)
    return names


def small(line: str) -> str:
    """A line with a width that a test can afford."""
    return line.replace("width=32", "width=8, groups=4").replace("(32, 64)", "(8, 16), norm_num_groups=4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_five_tables() -> None:
    """And every cell of a first column is Python."""
    found = tables()
    assert list(found) == ["diffusers", "denoising-diffusion-pytorch", "smalldiffusion", "k-diffusion", "azula"]
    for rows in found.values():
        assert len(rows) >= 5
        for left, _ in rows:
            ast.parse(left)


def test_diffusers(folder: Path) -> None:
    """Both columns; noisy images, velocities and the imported model are the same."""
    import diffusers
    from diffusers.training_utils import EMAModel

    rows = [(small(left), small(right)) for left, right in tables()["diffusers"]]
    classes = {
        n: getattr(diffusers, n) for n in re.findall(r"\b\w+(?:Model|Scheduler|Pipeline)\b", PAGE) if n != "EMAModel"
    }
    theirs = run([left for left, _ in rows], classes | common() | {"EMAModel": EMAModel})
    own = run([right for _, right in rows], common())
    torch.testing.assert_close(own["x"], theirs["x"], atol=1e-5, rtol=0)
    torch.testing.assert_close(own["v"], theirs["v"], atol=1e-5, rtol=0)
    assert own["images"].shape == (4, 1, 16, 16) and (folder / "ours.safetensors").exists()
    network, loaded = theirs["network"].eval(), own["model"].model.denoiser.network
    with torch.no_grad():
        expected = network(theirs["x"], theirs["t"]).sample
        torch.testing.assert_close(loaded(theirs["x"], theirs["t"].float()), expected, atol=1e-5, rtol=0)


def test_lucidrains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both columns; their Trainer for two steps, on a list of images, because its own data set needs torchvision."""
    rows = tables()["denoising-diffusion-pytorch"]
    package = import_lucidrains()
    module = package.denoising_diffusion_pytorch
    images = torch.rand(100, 1, 16, 16)
    for name, value in {
        "Dataset": lambda *args, **options: [*images],
        "cpu_count": lambda: 0,
        "utils": SimpleNamespace(save_image=lambda *args, **options: None),
    }.items():
        monkeypatch.setattr(module, name, value)
    few = {"train_num_steps": 2, "save_and_sample_every": 2, "num_samples": 1, "calculate_fid": False}
    trainer = functools.partial(package.Trainer, **few, results_folder=str(folder / "results"))
    theirs = run([left for left, _ in rows], vars(package) | common() | {"Trainer": trainer})
    assert theirs["trainer"].step == 2
    own = run([right for _, right in rows], common())
    assert own["samples"].shape == (4, 1, 16, 16)
    assert fn.load("runs/theirs").model.schedule.steps == 20


class Plain(nn.Module):
    """A network that ignores the time, with the signature of every library."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, *time: object, **options: object) -> Tensor:
        return self.conv(x)


def ours(library: str, **names: Any) -> dict[str, Any]:
    """Run our column, with a network and a model that was trained by a step."""
    start = ["network = fn.networks.UNet(1, 1, size=(16, 16), width=8, multipliers=(1, 2), groups=4)"]
    start += ["model = fn.Trainer(fn.Denoiser(network, fn.schedules.linear(1000)), x0, batch=4, steps=1).run()"]
    rows = [small(right) for _, right in tables()[library]]
    found = run([*start, *rows], common() | names)
    assert found["x"].shape == (4, 1, 16, 16) and found["x"].dtype == torch.uint8
    return found


def trajectory(denoiser: fn.Denoiser, sampler: Any, levels: list[NoiseLevel], x: Tensor) -> list[Tensor]:
    """Our samples after each step, over alpha, as libraries write them that add sigma times noise to images."""
    noise = Noise(0, torch.arange(len(x)))
    with torch.no_grad():
        steps = list(sampling_loop(denoiser, sampler, levels, (levels[0].alpha * x).float(), noise))
    return [step.x / float(step.level_s.alpha) for step in steps]


def test_smalldiffusion(folder: Path) -> None:
    """Both columns; sigmas and DDIM steps are the same."""
    package = import_foreign("smalldiffusion")
    loader = torch.utils.data.DataLoader(common()["x0"][:4], batch_size=4)  # type: ignore[arg-type]
    theirs = run([left for left, _ in tables()["smalldiffusion"]], vars(package) | common() | {"loader": loader})
    assert theirs["x"].shape == (4, 1, 16, 16)
    denoiser = fn.Denoiser(Plain(), ours("smalldiffusion")["denoiser"].schedule)
    schedule = denoiser.schedule
    levels = [schedule.at(k / 1000) for k in range(1, 1001)]
    sigmas = torch.stack([level.sigma / level.alpha for level in levels]).float()
    torch.testing.assert_close(theirs["schedule"].sigmas, sigmas, rtol=1e-3, atol=0)

    class Model(nn.Module, package.ModelMixin):
        input_dims = (1, 16, 16)

        def forward(self, x: Tensor, sigma: Tensor, cond: None = None) -> Tensor:
            level = schedule.at(schedule.time_from_logsnr(-2 * sigma.double().log()))
            return level.eps(x * level.alpha, denoiser((x * level.alpha).float(), level).x0).float()

    x = 100 * torch.randn(4, 1, 16, 16)
    expected = list(package.samples(Model(), theirs["schedule"].sample_sigmas(5), gam=1, xt=x))
    found = trajectory(denoiser, fn.samplers.DDIM(), uniform(schedule, 5), x)
    for ended, other in zip(found[:-1], expected[:-1], strict=True):  # the last ends at the first noise level there
        torch.testing.assert_close(ended, other, rtol=1e-3, atol=1e-2)


def test_k_diffusion(folder: Path) -> None:
    """Both columns; noise levels, denoiser, and Euler, Heun and DPM-Solver++ steps are the same."""
    package = import_foreign("k_diffusion")
    network, x = Plain(), 80 * torch.randn(4, 1, 16, 16)
    names = {"K": package, "inner_model": network, "x": x, "sigma": torch.rand(16) + 0.1}
    theirs = run([left for left, _ in tables()["k-diffusion"]], common() | names)
    found = ours("k-diffusion")
    denoiser = fn.Denoiser(network, found["denoiser"].schedule, found["denoiser"].target)
    levels = karras(denoiser.schedule, 5, **{k: v for k, v in found["grid"].items() if k != "kind"})
    ratios = torch.stack([level.sigma / level.alpha for level in levels])
    torch.testing.assert_close(theirs["sigmas"], ratios.float(), rtol=1e-5, atol=0)
    for name, sampler in (
        ("euler", fn.samplers.Euler()),
        ("heun", fn.samplers.Heun()),
        ("dpmpp_2m", fn.samplers.DPMSolverPP()),
    ):
        function = getattr(package.sampling, f"sample_{name}")
        expected = function(theirs["model"], x, theirs["sigmas"], disable=True)
        torch.testing.assert_close(trajectory(denoiser, sampler, levels, x)[-1], expected, rtol=1e-3, atol=1e-3)


def test_azula(folder: Path) -> None:
    """Both columns; the noise levels are close, and at theirs the denoiser and the DDIM steps are the same."""
    package = import_foreign("azula")
    names = {n: getattr(m, n) for m in (package.noise, package.denoise, package.sample) for n in m.__all__}
    network = Plain()
    theirs = run([left for left, _ in tables()["azula"]], common() | names | {"backbone": network})
    assert theirs["x"].shape == (4, 1, 16, 16)
    found = ours("azula")
    denoiser = fn.Denoiser(network, found["denoiser"].schedule, found["denoiser"].target)
    times = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    alpha, sigma = theirs["schedule"](times)
    torch.testing.assert_close(denoiser.schedule.logsnr(times), 2 * (alpha / sigma).log(), rtol=0.01, atol=0.03)
    pairs = [theirs["schedule"](t) for t in torch.linspace(1, 0, 6, dtype=torch.float64)]
    levels = [NoiseLevel(torch.tensor(0.5), a, s, 2 * (a / s).log()) for a, s in pairs]
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        expected = names["DDIMSampler"](theirs["denoiser"], steps=5, silent=True)(x)
    last = trajectory(denoiser, fn.samplers.DDIM(), levels, x / float(levels[0].alpha))[-1]
    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-3)
