"""Pickles: read by the verb ``import`` alone, after a sentence, and never if they call anything."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import fromnoise as fn
from fromnoise import cli, interop
from fromnoise.interop.pickles import is_pickle
from fromnoise.networks import PulferUNet
from fromnoise.utils.errors import UserError


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(params=["zip", "legacy", "pickle"])
def malicious(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint whose pickle runs a command, in the three formats."""
    path, content = tmp_path / "model.pt", {"model": {"init_conv.weight": Malicious(tmp_path / "ran")}}
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_malicious_pickle_imports_nothing(malicious: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a line that says so; the command did not run, and no run folder was made."""
    run = malicious.parent / "run"
    assert cli.main(["import", str(malicious), "--out", str(run)]) == 2
    out, err = capsys.readouterr()
    assert "weights_only=True" in out
    assert "is a pickle that " in err and "nothing was read" in err and len(err.strip().splitlines()) == 1
    assert not (malicious.parent / "ran").exists() and not run.exists()


def test_other_verbs_open_no_pickle(malicious: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They name the verb that reads pickles."""
    with pytest.raises(UserError, match="fromnoise import"):
        fn.load(malicious)
    assert cli.main(["sample", str(malicious), "--out", str(malicious.parent / "x.png")]) == 2
    assert "fromnoise import" in capsys.readouterr().err
    assert not (malicious.parent / "ran").exists()


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """A few bytes cannot unpack to more than the file has."""
    torch.save({"a": torch.zeros(10)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match="compressed"):
        interop.import_model(tmp_path / "packed.pt", read_pickles=True)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02garbage", b"PK\x03\x04", b"\x80\x04" + bytes(99)])
def test_damaged_files_get_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever they hold."""
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError) as error:
        interop.import_model(tmp_path / "model.pt", read_pickles=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, {"model": 3}, {"ema": {}, "model": {}}])
def test_other_contents_are_no_model(tmp_path: Path, content: object) -> None:
    """A pickle of something else."""
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match="not a model that can be imported"):
        interop.import_model(tmp_path / "model.pt", read_pickles=True)


def test_what_is_a_pickle(tmp_path: Path) -> None:
    """Recognized by its first bytes, whatever its name."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "a")
    torch.save({"a": torch.zeros(1)}, tmp_path / "b", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("picture.png", b"")
    assert [is_pickle(tmp_path / name) for name in ("a", "b", "c.zip", "nothing", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def published_pulfer(net: PulferUNet) -> dict[str, torch.Tensor]:
    """The state dict of ``MyDDPM`` in the tutorial, whose blocks are te1, b1, down1, ... te_out, b_out, conv_out."""
    state = {"network.time_embed.weight": net.get_buffer("table").clone()}
    for level, suffix in zip("123m456", ("1", "2", "3", "_mid", "4", "5", "_out"), strict=True):
        own = net.get_submodule("middle" if level == "m" else f"level{level}")
        for name, value in own.state_dict().items():
            part, rest = name.split(".", 1)
            rest = rest.replace("norm.", "ln.")
            their = f"te{suffix}.{rest}" if part == "time" else f"b{suffix}.{int(part[-1]) - 1}.{rest}"
            state[f"network.{their}"] = value.clone()
    for name in ("down1", "down2", "down3", "up1", "up2", "up3", "out"):
        for key, value in net.get_submodule(name).state_dict().items():
            state[f"network.{'conv_out' if name == 'out' else name}.{key}"] = value.clone()
    return state


@pytest.mark.parametrize("corrected", [False, True])
def test_pulfer_with_either_table(tmp_path: Path, corrected: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of the file is used: exponents of the channel, or of half the channel as in Vaswani et al. 2017."""
    net = PulferUNet(timesteps=50).eval()
    if corrected:
        j = torch.arange(0, 100, 2)
        angle = torch.arange(50)[:, None] * 10_000.0 ** (-j / 100)
        net.register_buffer("table", torch.stack([angle.sin(), angle.cos()], 2).flatten(1))
    torch.save(published_pulfer(net), tmp_path / "ddpm_model_mnist.pt")
    run = tmp_path / "run"
    assert cli.main(["import", str(tmp_path / "ddpm_model_mnist.pt"), "--out", str(run)]) == 0
    assert ("another than that" in capsys.readouterr().out) == corrected
    model = fn.load(run).model
    assert model.recipe.diffusion.schedule.steps == 50 and model.recipe.published is not None
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([3.0, 41.0])
    with torch.no_grad():
        assert torch.equal(model.denoiser.network(x, t), net(x, t))
    betas = torch.linspace(1e-4, 0.02, 50)
    torch.testing.assert_close(model.schedule.betas.float(), betas)


def test_pulfer_of_another_size_is_refused(tmp_path: Path) -> None:
    """The line says which size it is for."""
    state = published_pulfer(PulferUNet(timesteps=5))
    state["network.b1.0.ln.weight"] = torch.ones(1, 32, 32)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(UserError, match="32x32"):
        interop.import_model(tmp_path / "model.pt", read_pickles=True)
