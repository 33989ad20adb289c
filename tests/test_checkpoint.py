"""Checkpoints: described, whole or known to be damaged, never executed."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.utils.errors import UserError

TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention_resolutions": [],
    "network.groups": 4,
    "network.middle_attention": False,
}


@pytest.fixture
def model():
    """A tiny conditional model."""
    return build(recipes.load("digits", TINY | {"data.labels": True}), DatasetInfo((1, 8, 8), ("zero", "one"), "abc"))


def test_round_trip(tmp_path, model):
    """Weights, recipe, facts and progress come back from the file alone (ID#41, DD#185, GD#96)."""
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, model, model.denoiser.state_dict(), {"step": 7})
    loaded = checkpoint.load_model(path)
    assert loaded.model.recipe == model.recipe
    assert loaded.model.dataset_info == model.dataset_info
    assert loaded.progress == {"step": 7}
    for name, value in loaded.model.denoiser.state_dict().items():
        assert torch.equal(value, model.denoiser.state_dict()[name])


def test_every_flipped_bit_and_cut_is_known(tmp_path, model):
    """A damaged file is named, wherever the damage is."""
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, model, model.denoiser.state_dict(), {"step": 7})
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    places = [0, 3, 8, 20, len(whole) - 1, *torch.randint(len(whole), (60,), generator=generator).tolist()]
    for place in places:
        for bit in (0, 7):
            bad = bytearray(whole)
            bad[place] ^= 1 << bit
            path.write_bytes(bytes(bad))
            with pytest.raises(UserError, match="m.safetensors"):
                checkpoint.load_model(path)
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(checkpoint.DamagedFile, match="m.safetensors"):
            checkpoint.load_model(path)
    path.write_bytes(whole)
    checkpoint.load_model(path)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_is_refused_unopened(tmp_path, protocol):
    """Loading executes nothing."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(_Bomb(tmp_path / "executed"), protocol=protocol))
    with pytest.raises(checkpoint.DamagedFile, match="m.safetensors"):
        checkpoint.load_model(path)
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(checkpoint.DamagedFile, match="pickle"):
        checkpoint.load_model(path)
    assert not (tmp_path / "executed").exists()


def test_other_safetensors_are_named(tmp_path):
    """A file of another program, a state in place of a model, a missing path."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(checkpoint.DamagedFile, match="not written by fromnoise"):
        checkpoint.load_model(path)
    checkpoint.write(path, {"w": torch.zeros(3)}, {"kind": "state"})
    with pytest.raises(UserError, match="state for resuming"):
        checkpoint.load_model(path)
    with pytest.raises(UserError, match="no run folder or model"):
        checkpoint.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        checkpoint.load_model(tmp_path / "..")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """A write that cannot end (a limit on the size of files stands for a full disk) is one line.

    And the old file stays whole.
    """
    script = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from fromnoise import checkpoint
        from fromnoise.utils.errors import UserError
        path = Path(sys.argv[1])
        checkpoint.write(path, {"w": torch.ones(10)}, {"kind": "small"})
        try:
            checkpoint.write(path, {"w": torch.ones(10**6)}, {"kind": "large"})
        except UserError as e:
            print(e)
        """
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))

    path = tmp_path / "m.safetensors"
    out = subprocess.run(
        [sys.executable, "-c", script, str(path)], preexec_fn=limit, capture_output=True, text=True, timeout=120
    )
    assert "cannot write" in out.stdout and "untouched" in out.stdout, out.stderr
    assert checkpoint.read(path)[1]["kind"] == "small"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_length_that_looks_like_a_pickle(tmp_path):
    """The first two bytes of a header of 640 are those of a pickle: the file is read all the same."""
    path = tmp_path / "m.safetensors"
    for size in (640, 896, 1152):
        for pad in range(size):
            checkpoint.write(path, {"a": torch.zeros(2)}, {"pad": "x" * pad})
            if int.from_bytes(path.read_bytes()[:8], "little") == size:
                break
        assert path.read_bytes()[:2] == bytes([size % 256, size // 256])
        assert torch.equal(checkpoint.read(path)[0]["a"], torch.zeros(2))


def test_the_same_content_is_the_same_file(tmp_path, model):
    """In other processes too, whose hashes differ."""
    path = tmp_path / "m.safetensors"
    code = "import sys, torch; from pathlib import Path; from fromnoise import checkpoint"
    code += "; checkpoint.write(Path(sys.argv[1]), {'a': torch.ones(3), 'b': torch.zeros(2)}, {'kind': 'x', 'n': 1.5})"
    written = set()
    for _ in range(4):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        written.add(path.read_bytes())
    assert len(written) == 1
