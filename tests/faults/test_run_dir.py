"""A run directory survives kills and damaged files, and says what it did about them (review C5, C6, C8, C9, C14)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import TINY, open_run, recipe, report

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.run_dir import RunDir
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.locks import lock_folder, unlock_folder

run = pytest.fixture(open_run)


def again(run: RunDir) -> RunDir:
    """The same directory as a new process sees it."""
    run.close()
    fresh = RunDir(run.path, run.notices.append)  # pyright: ignore[reportAttributeAccessIssue]
    fresh.notices = run.notices  # pyright: ignore[reportAttributeAccessIssue]
    return fresh


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["log", "reports.jsonl", ".lock", "recipe.toml"])
def test_c6_pipe_in_a_run_directory(run, name):
    """A FIFO in place of a file of the run never hangs."""
    run.close()
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    fresh = again(run)
    with contextlib.closing(fresh), contextlib.suppress(UserError):
        fresh.open(recipe())
        fresh.log("line")
        fresh.write_reports([report(1)])
        fresh.read_reports()


# ---- C5: kills at the start


@pytest.mark.parametrize("left", [[".recipe.toml.7-abc.tmp"], [".lock"], [".lock", ".recipe.toml.7-abc.tmp"]])
def test_c5_kill_during_the_first_write_of_the_recipe(tmp_path, left):
    """The same command starts the run, and removes what the killed process left."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"half")
    run = RunDir(folder)
    with contextlib.closing(run):
        run.open(recipe())
        assert not list(folder.glob(".*.tmp"))
        assert run.recipe() == recipe()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_c5_kill_at_each_system_call(tmp_path):
    """Whichever call the start of a run is killed at, the same command then succeeds."""

    def start(folder: Path, at: int) -> None:
        """Open a run, and kill this process at its call number ``at``."""
        calls = 0

        def dies(function):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in ("replace", "fsync", "mkdir", "open", "write"):
            setattr(os, name, dies(getattr(os, name)))
        RunDir(folder).open(recipe())

    for at in range(1, 60):
        folder = tmp_path / str(at)
        child = os.fork()
        if not child:
            try:
                start(folder, at)
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            break
        with contextlib.closing(RunDir(folder)) as run:
            run.open(recipe())
            assert run.recipe() == recipe()
            assert not list(folder.rglob(".*.tmp"))
    assert 6 < at < 59


def test_c5_other_files_are_still_refused(tmp_path):
    """A folder with files of the user's is not taken over."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and contains no run"):
        RunDir(tmp_path).open(recipe())
    assert os.listdir(tmp_path) == ["thesis.tex"]


# ---- C8: what computed a state


def train(out: Path, steps: int, kernel: str) -> str:
    """A tiny run in a process of its own; what it says."""
    flags = [f"--{key}={json.dumps(value)}" for key, value in TINY.items()]
    flags += ["--train.previews", "0", "--sample.count", "0", "--train.batch", "4", "--train.held_out", "4"]
    command = [sys.executable, "-m", "fromnoise", "train", "digits", "--steps", str(steps), "--device", "cpu"]
    command += ["--train.decay", "constant"]
    environment = os.environ | {"FROMNOISE_KERNELS": kernel}
    done = subprocess.run(
        [*command, "--out", str(out), *flags], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_c8_state_names_what_computed_it(tmp_path):
    """A state with other arithmetic is named, one with the same is not, and neither is one of an older version."""
    from fromnoise.networks import kernels
    from fromnoise.training.distributed import make_accelerator
    from fromnoise.training.resume import arithmetic, describe_changes
    from fromnoise.utils.device import select_device

    before = kernels.enabled()
    try:
        kernels.disable()
        now = arithmetic(select_device("cpu", "fp32"), make_accelerator(cpu=True))
    finally:
        if before:
            kernels.enable()
    assert now == {"device": "cpu", "precision": "float32", "processes": "1", "normalization": "torch"} | {
        "sharding": "none",
        "torch": torch.__version__,
    }
    assert describe_changes(now, now) is None
    assert describe_changes(None, now) is None
    said = describe_changes(now | {"normalization": "group_norm-0123", "processes": "2"}, now)
    assert said is not None and "normalization was group_norm-0123 and is torch" in said
    assert "processes was 2 and is 1" in said and "not bit for bit" in said


@pytest.mark.long
def test_c8_resumption_without_the_kernel(tmp_path):
    """A state says what computed it; a run that goes on with other arithmetic says so, others do not."""
    from fromnoise.networks.kernels import build as kernels

    if kernels.library("group_norm") is None:
        pytest.skip("needs Linux, gcc and torch's OpenMP")
    train(tmp_path / "run", 2, "1")
    (state, *_) = sorted((tmp_path / "run" / "state").glob("*.safetensors"), reverse=True)
    assert checkpoint.read(state)[1]["arithmetic"]["normalization"].startswith("group_norm-")
    assert "bit for bit" not in train(tmp_path / "run", 3, "1")
    said = train(tmp_path / "run", 4, "0")
    assert "normalization was group_norm-" in said and "and is torch" in said and "not bit for bit" in said


# ---- C9: a folder in use


def test_c9_run_in_use_is_left_as_it_is(run):
    """Another process, also with another budget, is refused before it writes anything."""
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    other = RunDir(run.path)
    with pytest.raises(UserError, match="another process is training"):
        other.open(recipe(train__steps=77))
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    run.close()
    with contextlib.closing(RunDir(run.path)) as third:
        third.open(recipe(train__steps=77))


def test_c9_lock_that_was_removed(tmp_path):
    """A lock whose file was removed by its holder and created again is not held twice."""
    first = lock_folder(tmp_path)
    (tmp_path / ".lock").unlink()
    second = lock_folder(tmp_path)
    assert first is not None and second is not None
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    unlock_folder(tmp_path, second, remove=True)
    assert list(tmp_path.iterdir()) == []
    os.close(first)


def test_c9_clustering_releases_its_lock(tmp_path, monkeypatch):
    """Also where it fails, so that the same process can use the directory again."""
    from fromnoise.clustering import fit

    closed: list[Path] = []
    monkeypatch.setattr(fit.RunDir, "close", lambda self: closed.append(self.path))
    with pytest.raises(UserError):
        fit.fit_mixture(recipes.load("mixture", {"data.source": str(tmp_path / "nowhere")}), tmp_path / "run")
    assert closed == [tmp_path / "run"]


# ---- C14: damaged recipes


@pytest.mark.parametrize("damage", [b"\xff", b"a = [", b"[network]\nwidth = 'x'\n", b"", b"[network]\ndepth = 3\n"])
def test_c14_damaged_recipe_is_replaced_by_that_of_the_state(run, damage):
    """The run goes on; the notice names both files, and the damaged one is kept."""
    run.recipe_file.write_bytes(damage)
    fresh = again(run)
    with contextlib.closing(fresh):
        assert fresh.recipe() == recipe()
        fresh.open(recipe())
    assert len(run.notices) == 1 and "recipe.toml" in run.notices[0] and "000000002.safetensors" in run.notices[0]
    assert (run.path / "recipe.toml.damaged").read_bytes() == damage
    assert recipes.load(str(run.recipe_file)) == recipe()


def test_c14_changed_recipe(run):
    """One changed digit that leaves it valid: the states decide, and the difference is named."""
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text.replace("\nwidth = 8", "\nwidth = 9"))
    fresh = again(run)
    with contextlib.closing(fresh):
        fresh.open(recipe())
    assert "network.width is 9 there and 8 here" in run.notices[0]
    with pytest.raises(UserError, match=r"network\.width is 8 there and 9 here"):
        again(run).open(recipe(network__width=9))


def test_c14_missing_recipe(run):
    """A run without recipe.toml is still a run."""
    run.recipe_file.unlink()
    with contextlib.closing(again(run)) as fresh:
        fresh.open(recipe())
    assert recipes.load(str(run.recipe_file)) == recipe()


def test_c14_damaged_recipe_and_damaged_newest_state(run):
    """The state before it has a copy too."""
    run.recipe_file.write_bytes(b"\xff")
    newest = sorted(run.states.glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert again(run).recipe() == recipe()
    assert "000000001.safetensors" in run.notices[0]


def test_c14_damaged_recipe_without_states(run):
    """One line that names the file."""
    for state in run.states.glob("*.safetensors"):
        state.unlink()
    run.recipe_file.write_bytes(b"[network]\nwidth = 'x'\n")
    with pytest.raises(UserError, match=r"recipe\.toml.*network\.width"):
        again(run).open(recipe())


def test_c14_state_of_another_recipe(run):
    """A state whose recipe differs from that of the run is not resumed from."""
    from fromnoise.training.resume import check_state

    state = run.load_state()
    assert state is not None
    with pytest.raises(UserError, match=r"run/state have another recipe: train\.lr is"):
        check_state(state[1], run, recipe(train__lr=0.5), DatasetInfo((1, 8, 8), None, "abc"), print)


@pytest.mark.parametrize("progress", [None, 7, {"step": "x"}, {"step": -1}, {"seconds": float("nan")}, {"step": [1]}])
def test_low_counters_of_a_state(run, progress):
    """Counters that are no numbers are one line that names the folder."""
    from fromnoise.training.resume import check_state

    state = run.load_state()
    assert state is not None
    header = state[1] | {"progress": progress}
    with pytest.raises(UserError, match="run/state does not fit this run"):
        check_state(header, run, recipe(), DatasetInfo((1, 8, 8), None, "abc"), print)


@pytest.mark.parametrize("values", [{"recipe": 7}, {"recipe": {"network": {"width": "x"}}}, {"dataset": None}])
def test_c14_messages_name_the_file(tmp_path, values):
    """A recipe or a description of the data that cannot be read, in a model, a state and a recipe file."""
    model = build(recipe(), DatasetInfo((1, 8, 8)))
    header = checkpoint.model_header(model.recipe, model.dataset_info) | {"kind": "model", "progress": {}} | values
    checkpoint.write(tmp_path / "m.safetensors", model.denoiser.state_dict(), header)
    with pytest.raises(UserError, match=r"m\.safetensors"):
        checkpoint.load_model(tmp_path / "m.safetensors")
    (tmp_path / "mine.toml").write_text("[network]\nwidth = 'x'\n")
    with pytest.raises(UserError, match=r"mine\.toml: network\.width"):
        recipes.load(str(tmp_path / "mine.toml"))
    with pytest.raises(UserError, match=r"^train\.lr"):  # the mistake is not the file's
        recipes.load(str(tmp_path / "mine.toml"), {"train.lr": -1, "network.width": 8})


def test_two_writers_of_one_file(tmp_path):
    """Temporary names differ, so that one file is whole whoever is last."""
    import threading

    path = tmp_path / "x"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomic, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_c14_library_warns_of_damaged_files(tmp_path):
    """A trainer in Python that continues a run with a damaged recipe says so by a warning."""
    import fromnoise as fn

    images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    options = TINY | {"train.previews": 0, "sample.count": 0, "train.held_out": 4}
    options = {key.replace(".", "__"): value for key, value in options.items()}
    options |= {"batch": 4, "out": tmp_path / "run", "device": "cpu", "progress": False}
    fn.Trainer("digits", images, steps=1, **options).run()
    (tmp_path / "run" / "recipe.toml").write_bytes(b"\xff")
    with pytest.warns(UserWarning, match=r"recipe\.toml.*using the recipe that is stored in"):
        fn.Trainer("digits", images, steps=2, **options).run()
