"""Sharded training in one process: which units are gathered, states in several files, and messages.

A process group of one process makes DTensors as several do; ``test_sharded_runs.py`` has several.
"""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.cli import main
from fromnoise.run_dir import RunDir
from fromnoise.training.layout import parameter_of
from fromnoise.training.saving import saver_of
from fromnoise.training.sharding import check_possible, units
from fromnoise.utils.errors import UserError


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process."""
    where = tmp_path_factory.mktemp("group") / "group"
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# ---- units


class Branch(nn.Module):
    """A composite that is called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.second(self.first(x))


def test_units_are_called_composites_with_a_share_of_the_parameters():
    """Inner ones first; neither layers, lists of modules nor small composites."""
    first, second, third = Branch(8), Branch(8), Branch(8)
    network = nn.Module()
    network.stem, network.small = nn.Linear(16, 16), Branch(1)
    network.branches = nn.ModuleList([first, nn.Sequential(second, third)])
    found = units(network)
    assert found == [first, second, third]
    for p in first.parameters():
        p.requires_grad_(False)
    assert units(network) == [second, third]


def test_parameter_of_a_tensor_in_a_state():
    """By the names that a loop gives them."""
    weight = torch.zeros(2)
    averages = ("ema.0.a.weight", "ema.snapshot.1.a.weight", "ema.best.a.weight")
    for name in ("model.a.weight", *averages, "optimizer.a.weight.exp_avg"):
        assert parameter_of(name, {"a.weight": weight}) is weight
    for name in ("model.b", "ema.epoch_statistics", "time_sampler.losses", "optimizer.step"):
        assert parameter_of(name, {"a.weight": weight}) is None


# ---- a loop


def train(loop, steps: int):
    """Losses of the first steps."""
    return [report.loss for report in itertools.islice(loop.run(), steps)]


@pytest.mark.parametrize(
    "over",
    [
        {"train_optimizer": "muon", "train_clip": 0.1, "train_accumulate": 2},
        {"network_recompute": True, "loss_self_conditioning": True, "ema_decays": [0.5], "ema_widths": []},
    ],
)
def test_a_sharded_loop_trains_as_another(make, alone, over):
    """Losses, norms, averages, held-out losses and the weights for sampling."""
    over |= {"network_dropout": 0, "train_report_every": 1}
    one, sharded = make(3, **over), make(3, train_sharding="full", **over)
    assert all(type(p).__name__ == "DTensor" for p in sharded.model.module.parameters())
    assert train(sharded, 3) == pytest.approx(train(one, 3), abs=1e-6)
    measured, found = one.evaluate(), sharded.evaluate()
    assert found.pop("loss_by_t") == pytest.approx(measured.pop("loss_by_t"), abs=1e-6)
    assert found == pytest.approx(measured, abs=1e-6)
    expected = one.ema_state_dict()
    found = sharded.ema_state_dict()
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        assert type(found[name]) is torch.Tensor and (found[name] - t).abs().max() < 1e-6, name
    made = sharded.ema_model().module.state_dict()
    assert all(torch.equal(made[name], t) for name, t in found.items())


# ---- states


@pytest.fixture(scope="module")
def written(make, alone, tmp_path_factory):
    """A sharded loop, and a run directory with its states of steps 1 and 2."""
    loop, folder = make(12, train_sharding="full", ema_decays=[0.9]), RunDir(tmp_path_factory.mktemp("run"))
    saver = saver_of(loop, folder)
    for _ in range(2):
        train(loop, 1)
        saver.save()
    saver.wait()
    return loop, folder.path


@pytest.fixture
def saved(written, tmp_path):
    """The loop, and a copy of the run directory."""
    loop, path = written
    return loop, RunDir(shutil.copytree(path, tmp_path / "run"))


def test_states_in_several_files(make, saved):
    """Read whole by one process, read as parts, and deleted with their folders."""
    loop, folder = saved
    assert [int(path.stem) for path in sorted(folder.states.glob("*.safetensors"))] == [1, 2]
    assert checkpoint.read(folder.model_file)[1]["progress"] == {"step": 2}
    tensors, header = folder.load_state()
    assert header["progress"]["step"] == 2 and header["arithmetic"]["sharding"] == "full"
    parts, _ = folder.load_state(read=loop.read_state)
    assert parts.keys() == tensors.keys() and all(torch.equal(parts[k], tensors[k]) for k in parts)
    plain = make(12, ema_decays=[0.9])  # not sharded
    plain.resume(tensors, header)
    train(plain, 1)
    folder.save_state(3, *plain.state())
    (folder.states / "000000009.00.shards").mkdir()  # left by a kill
    folder.remove_old_states()
    assert [path.name.split(".")[0] for path in folder.states.glob("*.shards")] == ["000000002"]
    state, header = folder.load_state(read=loop.read_state)  # one file, read by a sharded loop
    loop.resume(state, header)
    assert all(torch.equal(v, plain.state()[0][k]) for k, v in state.items())
    assert train(loop, 2) == pytest.approx(train(plain, 2), abs=1e-6)


DAMAGES = {
    "missing": lambda part, state: part.unlink(),
    "truncated": lambda part, state: part.write_bytes(part.read_bytes()[:-100]),
    "changed": lambda part, state: part.write_bytes(part.read_bytes()[:-1] + b"?"),
    "of another state": lambda part, state: part.write_bytes(_other(part).read_bytes()),
    "header truncated": lambda part, state: part.write_bytes(part.read_bytes()[:200]),
    "list in another folder": lambda part, state: _change(state, {"folder": "../000000002.00.shards"}),
    "list of nothing": lambda part, state: _change(state, {"digests": {}}),
    "list of a wrong digest": lambda part, state: _change(state, {"digests": {"0": "0" * 64}}),
    "list with a wrong number": lambda part, state: _change(state, {"digests": {"-1": "0" * 64}}),
}


def _other(part):
    return next(part.parents[1].glob("000000001.*.shards/*"))


def _change(state, changes):
    tensors, header = checkpoint.read(state)
    checkpoint.write(state, tensors, header | {"shards": header["shards"] | changes})


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(saved, damage):
    """Each is named, and the state before is read, whole or in parts."""
    loop, folder = saved
    state = folder.state_file(2)
    (part,) = folder.states.glob("000000002.*.shards/*")
    DAMAGES[damage](part, state)
    with pytest.raises(checkpoint.DamagedFile, match="damaged|incomplete"):
        checkpoint.read_state(state)
    with pytest.raises(checkpoint.DamagedFile, match="damaged|incomplete"):
        loop.read_state(state)
    lines = []
    read = RunDir(folder.path, lines.append).load_state(read=loop.read_state)
    assert read is not None
    header = read[1]
    assert header["progress"]["step"] == 1 and len(lines) == 1 and "reading the checkpoint before it" in lines[0]


@pytest.mark.parametrize(
    ("key", "shape"), [("a@9", [4]), ("b@0", [4]), ("a@-1", [4]), ("a@0,0", [4]), ("a", [4]), ("a@0", [3])]
)
def test_parts_that_do_not_make_up_a_tensor(tmp_path, key, shape):
    """Refused before memory is used for it."""
    from fromnoise.checkpoint.sharded import read_parts

    part = tmp_path / "000000002.00.shards" / "00000.safetensors"
    checkpoint.write(part, {key: torch.zeros(shape)}, {"shapes": {"a": [4]}})
    digests = {"0": checkpoint.read_header(part)["digest"]}
    state = tmp_path / "000000002.safetensors"
    checkpoint.write(state, {}, {"shards": {"folder": part.parent.name, "digests": digests}})
    with pytest.raises(checkpoint.DamagedFile):
        read_parts(state)


# ---- messages


def test_one_process_is_refused(make, monkeypatch):
    """With what to do, as is a build without processes."""
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="there is one: start it by torchrun"):
        make(1, train_sharding="full")


def test_builds_without_processes(monkeypatch):
    """They cannot shard."""
    monkeypatch.setattr(dist, "is_available", lambda: False)
    with pytest.raises(UserError, match="this build of torch lacks: leave --train.sharding out"):
        check_possible()


def test_numbers_without_rows(make, alone, monkeypatch):
    """A parameter that is a single number is named."""
    from fromnoise.training import sharding

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    loop = make(1)
    with pytest.raises(UserError, match="scale is a single number"):
        sharding.Sharded(loop.accelerator, loop.compute).distribute(Scale(), Scale())


def test_compiled_networks_are_not_sharded(tmp_path, tiny, capsys):
    """One line."""
    flags = [w for k, v in tiny.items() for w in (f"--{k}", json.dumps(v).strip('"'))]
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--steps", "1", *flags, "--device", "cpu"]
    assert main([*words, "--sharding", "full", "--compile"]) == 2
    assert "--compile" in capsys.readouterr().err
    assert main([*words, "--sharding", "half"]) == 2
    assert "train.sharding" in capsys.readouterr().err


def test_sharding_may_change_when_a_run_goes_on():
    """As the number of processes may."""
    from fromnoise.run_dir import fixed_difference

    recipe = recipes.load("digits", {})
    assert not fixed_difference(recipe, recipes.load("digits", {"train.sharding": "full"}))
