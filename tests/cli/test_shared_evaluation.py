"""``evaluate`` by one, two and three processes: the same numbers, also where an interrupted command goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from fromnoise.cli import main
from fromnoise.evaluation import model_source
from fromnoise.pipeline import sampling_run
from ranks import Ranks, free_port

WORDS = ("-n", 45, "--batch", 7, "--features", "pixels", "--bits", 0, "--device", "cpu", "--precision", "fp32")


def evaluated(ranks: Ranks, world: int, run: Path, out: Path, fail_at: int = -1) -> tuple[list[int], str]:
    """Evaluate by forked ranks; their exit codes and output. The one with sample ``fail_at`` is interrupted."""
    port = free_port()

    def work() -> None:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)  # that of the process from which this one was forked
        torch.set_num_threads(1)
        original = sampling_run.SamplingRun.steps

        def steps(self, compute, batch=64):
            if fail_at in self.noise.ids:
                raise KeyboardInterrupt
            print(f"[samples from {min(self.noise.ids.tolist(), default=-1)}]")
            return original(self, compute, batch)

        sampling_run.SamplingRun.steps = steps
        model_source.ModelSource.estimated_seconds = lambda self: 0.0
        raise SystemExit(main([str(word) for word in ("evaluate", run, *WORDS, "--out", out)]))

    found = []
    for rank in range(world):
        variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port}
        variables |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "FROMNOISE_STALL_TIMEOUT": 10}
        found.append(ranks.start(work, {name: str(value) for name, value in variables.items()}))
    codes = [rank.wait(120) for rank in found]
    return codes, "".join(rank.text for rank in found)


def numbers(out: Path) -> dict:
    """What was measured, without the time."""
    (found,) = json.loads((out / "report.json").read_text())["evaluations"]
    assert found["cost"].pop("seconds_per_image") > 0
    return found


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_any_number_of_processes_measures_the_same(run, tmp_path):
    """Bit for bit; and an interrupted command goes on with the batches that are missing, by another number."""
    with Ranks(tmp_path) as ranks:

        def measure(world: int, name: str) -> tuple[dict, str]:
            codes, text = evaluated(ranks, world, run, tmp_path / name)
            assert codes == [0] * world, text
            return numbers(tmp_path / name), text

        one, _ = measure(1, "one")
        assert measure(2, "two")[0] == one
        codes, text = evaluated(ranks, 2, run, tmp_path / "again", fail_at=35)
        assert 0 not in codes, text
        (folder,) = tmp_path.glob(".again.*.parts")
        assert len(list(folder.glob("*.safetensors"))) == 4
        again, text = measure(3, "again")
        assert set(re.findall(r"samples from (\d+)", text)) == {"28", "35", "42"}
        assert again == one and not folder.exists()
