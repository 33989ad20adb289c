"""Training runs that are disturbed, and whether they end as the undisturbed run."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from cases import Bench
from materials import train_words
from sandbox import Child, Limits, Outcome, cli, violations

WORDS = ("--train.previews", "1", "--evaluation.times", "1", "--evaluation.samples", "100")
FEATURES = ("--evaluation.features", "pixels", "--evaluation.steps", "2")
LIMITS = Limits(seconds=600, cpu_seconds=300)


class Counts:
    """Counts of a kind of fault, and what broke the rule."""

    def __init__(self, kind: str, seed: int) -> None:
        """Begin.

        Args:
            kind: of the faults.
            seed: of the random choices.
        """
        self.kind, self.seed, self.cases = kind, seed, 0
        self.codes: Counter[str] = Counter()
        self.broken: list[dict[str, Any]] = []
        self.remark, self.longest, self._begin = "", 0.0, time.monotonic()

    def add(self, case: object, outcomes: list[Outcome], broken: list[str]) -> None:
        """Count a case with all its processes."""
        self.cases += 1
        self.codes.update(str(outcome.code) for outcome in outcomes)
        self.longest = max([self.longest, *(outcome.seconds for outcome in outcomes)])
        if broken:
            self.broken.append({"case": str(case), "broken": broken})
            print(
                self.kind, case, broken, *(outcome.err.strip()[-800:] for outcome in outcomes), sep="\n  ", flush=True
            )

    def row(self) -> dict[str, Any]:
        """For ``campaign_table``."""
        return {
            "kind": self.kind,
            "cases": self.cases,
            "codes": dict(sorted(self.codes.items())),
            "broken": self.broken,
            "seconds": round(time.monotonic() - self._begin, 1),
            "longest_seconds": round(self.longest, 1),
            "seed": self.seed,
            "remark": self.remark,
        }


class Training:
    """A command that trains in ``out``, and the files that it leaves when nothing disturbs it."""

    def __init__(self, bench: Bench, steps: int, *words: str) -> None:
        """Run it undisturbed.

        Args:
            bench: has the data.
            steps: of the run.
            words: more flags.
        """
        self.bench, self.words = bench, train_words(steps, "out", *WORDS, *FEATURES, *words)
        place = self.new_folder("undisturbed")
        outcome = Child(cli(*self.words), place, LIMITS).wait()
        assert outcome.code == 0, outcome.err
        self.seconds = outcome.seconds
        self.expected = content(place / "out")

    def new_folder(self, name: str) -> Path:
        """A folder with the data."""
        place = self.bench.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copy(self.bench.materials / "pics.npz", place)
        return place

    def start(self, place: Path, prepare: Any = None) -> Child:
        """Start or resume it in a folder."""
        return Child(cli(*self.words), place, LIMITS, prepare)

    def finish(self, place: Path) -> tuple[Outcome, list[str]]:
        """Resume it undisturbed; what is wrong with the outcome and the files."""
        outcome = self.start(place).wait()
        broken = violations(outcome, LIMITS)
        if outcome.code != 0:
            broken.append(f"cannot be resumed: {outcome.message}")
        else:
            broken += differences(content(place / "out"), self.expected)
        return outcome, broken


def content(out: Path) -> dict[str, Any]:
    """What must be equal in two runs: the newest state, models, reports and samples, without times."""
    from fromnoise import checkpoint

    found: dict[str, Any] = {}
    states = sorted((out / "state").glob("*.safetensors"))
    for path in (*states[-1:], out / "model.safetensors", out / "best.safetensors"):
        if path.exists():
            tensors, header = checkpoint.read(path)
            header["progress"].pop("seconds", None)
            found |= {f"{path.name}/{name}": tensor for name, tensor in tensors.items()}
            found[path.name] = header
    rows = [json.loads(line) for line in (out / "reports.jsonl").read_text().splitlines()]
    found["reports.jsonl"] = [{key: value for key, value in row.items() if key != "timing"} for row in rows]
    found["samples.png"] = (out / "samples.png").read_bytes()
    found["previews"] = sorted(path.name for path in (out / "samples").iterdir())
    found["temporary files"] = [path.name for path in out.rglob(".*.tmp")]
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of what differs between two runs."""
    different = [name for name in {**expected, **found} if not _equal(found.get(name), expected.get(name))]
    return [f"differs from the undisturbed run: {', '.join(different[:4])}"] if different else []


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


def kills(bench: Bench, seed: int, count: int) -> dict[str, Any]:
    """SIGKILL at random moments of a run of 40 steps, up to three times in the same run, and then its end."""
    counts, rng = Counts("kill at a random moment of training", seed), random.Random(f"kills/{seed}")
    training = Training(bench, 40)
    killed, case = 0, 0
    while killed < count:
        place, outcomes = training.new_folder("killed"), []
        for _ in range(rng.randint(1, 3)):
            child = training.start(place)
            time.sleep(rng.uniform(0, 1.1 * training.seconds))
            child.send(9)
            outcomes.append(child.wait())
            killed += outcomes[-1].code == -9
        broken = [text for outcome in outcomes if outcome.code != -9 for text in violations(outcome, LIMITS)]
        outcome, more = training.finish(place)
        counts.add(case, [*outcomes, outcome], broken + more)
        case += 1
    counts.remark = f"{killed} kills"
    return counts.row()
