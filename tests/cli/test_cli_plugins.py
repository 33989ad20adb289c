"""Components of the user's own on the command line: ``--plugin``, and flags that are made from their options."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fromnoise import registry
from fromnoise.diffusion.samplers import DDIM, Sampler


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The options with which a sampler was made; some have names of other flags, some are no numbers."""
    monkeypatch.setitem(registry._COMPONENTS, "sampler", dict(registry._COMPONENTS["sampler"]))
    made = []

    @registry.register("sampler", "many-options")
    @dataclass(frozen=True)
    class ManyOptions(Sampler):
        """DDIM.

        Args:
            seed: 100 % of another flag's name.
            rescale: an option of guidance has this name.
            levels: a list.
            exact: a truth value.
            mode: a word.
        """

        seed: int = 0
        rescale: float = 0.0
        levels: tuple[float, ...] = ()
        exact: bool = True
        mode: str = field(default="fast")

        def __post_init__(self):
            if self.seed < 0:
                raise ValueError("seed must not be negative")
            made.append((self.seed, self.rescale, self.levels, self.exact, self.mode))

        def step(self, denoise, x, level_t, level_s, noise, memory):
            return DDIM().step(denoise, x, level_t, level_s, noise, memory)

    return made


def test_options_of_all_types(right, run, received):
    """An option whose flag exists already has the family's name before its own."""
    flags = ["--sampler-seed", 3, "--sampler-rescale", 0.5, "--levels", "1,0.5", "--exact", "false", "--mode", "slow"]
    words = ["sample", run, "-n", 2, "--seed", 1, "--sampler", "many-options", "--steps", 2]
    right(*words, *flags, "--out", "x.npz")
    assert set(received) == {(3, 0.5, (1.0, 0.5), False, "slow")}
    right("sample", run, "-n", 2, "--seed", 1, "--sampler", "ddim", "--steps", 2, "--out", "y.npz")
    assert np.array_equal(np.load("x.npz")["images"], np.load("y.npz")["images"])


def test_help_of_the_options(right, received):
    shown = " ".join(right("sample", "--help").out.split())
    assert "--sampler-seed S many-options: 100 % of another flag's name" in shown
    assert "--seed S seed; sample i depends on (seed, i) only" in shown and "many-options DDIM." in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler-seed", -1], "seed must not be negative"),
        (["--sampler", "ddim", "--sampler-seed", 1], "--sampler-seed does not apply to sampler ddim"),
        (["--exact", "perhaps"], "--exact"),
        (["--levels", "a,b"], "--levels"),
    ],
)
def test_wrong_options(wrong, run, received, flags, message):
    sampler = [] if "--sampler" in flags else ["--sampler", "many-options"]
    wrong("sample", run, "--out", "x.png", *sampler, *flags, message=message)


def test_plugin_that_cannot_be_imported(wrong, tmp_path):
    wrong("sample", "run", "--plugin", "no_such_module", message=("--plugin 'no_such_module'", "No module named"))
    wrong("sample", "run", "--plugin", "my_sampler.py", message="without .py")
    wrong("sample", "run", "--plugin", message="--plugin")
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    wrong("recipes", "--plugin=broken_plugin", message="ZeroDivisionError", touched=True)
