"""Checkpoints describe their model, are complete or known to be damaged, and execute nothing."""

from __future__ import annotations

import hashlib
import json
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

from fromnoise import __version__, checkpoint
from fromnoise import config as recipes
from fromnoise.checkpoint import tensor_file
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.run_dir import RunDir
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


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_round_trip(tmp_path, model, as_path):
    """Weights, recipe, data description and progress are restored from the file alone (ID#41, DD#185, GD#96)."""
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(as_path(path), model, model.denoiser.state_dict(), {"step": 7})
    loaded = checkpoint.load_model(as_path(path))
    assert loaded.model.recipe == model.recipe
    assert loaded.model.dataset_info == model.dataset_info
    assert loaded.progress == {"step": 7} and loaded.path == path
    for name, value in loaded.model.denoiser.state_dict().items():
        assert torch.equal(value, model.denoiser.state_dict()[name])


def test_every_flipped_bit_and_truncation_is_detected(tmp_path, model):
    """The error names the damaged file, wherever the damage is."""
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, model, model.denoiser.state_dict(), {"step": 7})
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    offsets = [0, 3, 8, 20, len(content) - 1, *torch.randint(len(content), (60,), generator=generator).tolist()]
    for offset in offsets:
        for bit in (0, 7):
            changed = bytearray(content)
            changed[offset] ^= 1 << bit
            path.write_bytes(bytes(changed))
            with pytest.raises(UserError, match="m.safetensors"):
                checkpoint.load_model(path)
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(checkpoint.DamagedFile if length else UserError, match="m.safetensors"):
            checkpoint.load_model(path)
    path.write_bytes(content)
    checkpoint.load_model(path)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickle_is_refused_without_opening_it(tmp_path, protocol):
    """Loading executes nothing."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(_Bomb(tmp_path / "executed"), protocol=protocol))
    with pytest.raises(checkpoint.DamagedFile, match="m.safetensors"):
        checkpoint.load_model(path)
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(checkpoint.DamagedFile, match="pickle"):
        checkpoint.load_model(path)
    assert not (tmp_path / "executed").exists()


def test_files_that_are_not_models(tmp_path):
    """A file of another program, a training state, a missing path, a folder without a model."""
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(checkpoint.DamagedFile, match="not written by fromnoise"):
        checkpoint.load_model(path)
    checkpoint.write(path, {"w": torch.zeros(3)}, {"kind": "state"})
    with pytest.raises(UserError, match="state for resuming"):
        checkpoint.load_model(path)
    with pytest.raises(UserError, match="no run directory or model"):
        checkpoint.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        checkpoint.load_model(tmp_path / "..")


def write_as_version_0_1(path, tensors, header):
    """The file format 1, transcribed from version 0.1.0."""
    blank = "0" * 64
    text = json.dumps({"digest": blank, "format": 1, "version": "0.1.0", **header}, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"fromnoise": text.replace(blank, digest.hexdigest(), 1)})


OLD_HEADER = {
    "kind": "model",
    "progress": {"step": 3},
    "recipe": {"name": "digits", "judge": {"every": 3}, "train": {"steps": 3}},
    "facts": {"shape": [1, 8, 8], "labels": None, "fingerprint": "abc", "attributes": None},
}
OLD_MESSAGE = (
    r"was written by fromnoise 0\.1\.0, whose format this version does not read: retrain it, or use fromnoise 0\.1\.0$"
)


def test_model_of_version_0_1(tmp_path):
    """One line names the file and the version that wrote it, for the file and for its folder."""
    path = tmp_path / "model.safetensors"
    write_as_version_0_1(path, {"w": torch.zeros(3)}, OLD_HEADER)
    for run in (path, tmp_path):
        with pytest.raises(checkpoint.OtherFormat, match=f"^{path} {OLD_MESSAGE}") as caught:
            checkpoint.load_model(run)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "state/000000003.safetensors"])
def test_run_directory_of_version_0_1(tmp_path, name):
    """Its recipe has other keys: the error names the version and not the first unknown key; a state is kept."""
    write_as_version_0_1(tmp_path / name, {"w": torch.zeros(3)}, OLD_HEADER)
    (tmp_path / "recipe.toml").write_text('name = "digits"\n[judge]\nevery = 3\n')
    with pytest.raises(checkpoint.OtherFormat, match=f"^{tmp_path / name} {OLD_MESSAGE}"):
        RunDir(tmp_path).recipe()
    if name.startswith("state"):
        with pytest.raises(checkpoint.OtherFormat, match=OLD_MESSAGE):
            RunDir(tmp_path).load_state()
        assert (tmp_path / name).exists()


def test_run_directory_with_an_unknown_key(tmp_path, model):
    """With a model of this version the error is about the key."""
    checkpoint.save_model(tmp_path / "model.safetensors", model, model.denoiser.state_dict(), {"step": 7})
    (tmp_path / "recipe.toml").write_text("[train]\nsteps = 3\nlearning_rat = 1\n")
    with pytest.raises(UserError, match="learning_rat"):
        RunDir(tmp_path).recipe()


def test_file_of_a_later_version(tmp_path, monkeypatch):
    """It asks for an upgrade."""
    path = tmp_path / "m.safetensors"
    monkeypatch.setattr(tensor_file, "FORMAT", checkpoint.FORMAT + 1)
    checkpoint.write(path, {"w": torch.zeros(3)}, {"kind": "model"})
    monkeypatch.undo()
    with pytest.raises(checkpoint.OtherFormat, match=f"written by fromnoise {__version__}, a later version: upgrade"):
        checkpoint.read(path)


def test_full_disk_keeps_the_existing_file(tmp_path):
    """A write that fails (a limit on the size of files simulates a full disk) gives one line.

    The existing file is unchanged.
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
    assert "cannot write" in out.stdout and "unchanged" in out.stdout, out.stderr
    assert checkpoint.read(path)[1]["kind"] == "small"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_header_length_that_looks_like_a_pickle(tmp_path):
    """The first two bytes of a header of 640 bytes are those of a pickle: the file is read."""
    path = tmp_path / "m.safetensors"
    for size in (640, 896, 1152):
        for padding in range(size):
            checkpoint.write(path, {"a": torch.zeros(2)}, {"padding": "x" * padding})
            if int.from_bytes(path.read_bytes()[:8], "little") == size:
                break
        assert path.read_bytes()[:2] == bytes([size % 256, size // 256])
        assert torch.equal(checkpoint.read(path)[0]["a"], torch.zeros(2))


def test_same_content_gives_the_same_file(tmp_path):
    """Also in other processes, in which hashes differ."""
    path = tmp_path / "m.safetensors"
    code = "import sys, torch; from pathlib import Path; from fromnoise import checkpoint"
    code += "; checkpoint.write(Path(sys.argv[1]), {'a': torch.ones(3), 'b': torch.zeros(2)}, {'kind': 'x', 'n': 1.5})"
    checkpoint.write(path, {"a": torch.ones(3), "b": torch.zeros(2)}, {"kind": "x", "n": 1.5})
    written = {path.read_bytes()}
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        written.add(path.read_bytes())
    assert len(written) == 1
