"""``fromnoise tune``."""

from __future__ import annotations

import argparse
import sys

HELP = "learn the time steps and coefficients of the sampler for a number of steps"
EPILOG = """A few dozen numbers are learned by comparing samples with training images; the network stays as it is. They
are kept in model.safetensors and used when that number of steps is asked, unless --no-tuned is given.

examples:
  fromnoise tune runs/mine --steps 5
  fromnoise sample runs/mine --steps 5 -n 100 --out samples.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory or a .safetensors file")
    add("--steps", metavar="K", type=int, default=5, help="number of sampling steps")
    add("--data", metavar="SPEC", help="training images (default: the data of the run)")
    add("--iterations", metavar="N", type=int, default=240, help="optimizer steps")
    add("--batch", metavar="B", type=int, default=64, help="samples in each")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


class _StoppedError(Exception):
    """A signal arrived."""


def run(args: argparse.Namespace) -> int:
    """Tune, and say what was kept."""
    from fromnoise.cli.common import check_minimum

    check_minimum(("--steps", args.steps, 1), ("--iterations", args.iterations, 1), ("--batch", args.batch, 2))
    import time
    from statistics import mean

    from tqdm import tqdm

    from fromnoise.training.run import stop_on_signal
    from fromnoise.tuning import TuningStep, last_report, tune_run

    begun, cpu = time.perf_counter(), time.process_time()
    reports = tune_run(
        args.model,
        args.steps,
        data=args.data,
        iterations=args.iterations,
        batch=args.batch,
        device=args.device,
        precision=args.precision,
        log=print,
    )
    distances: list[float] = []
    # a flag, because Python drops a KeyboardInterrupt that is raised in a callback of another library
    with stop_on_signal(lambda: None) as signals, tqdm(total=args.iterations, unit="iteration") as bar:

        def show(step: TuningStep) -> None:
            distances.append(step.distance)
            bar.set_description_str(f"distance x 1000 {1000 * mean(distances[-20:]):.2f}", refresh=False)
            bar.update()
            if signals:
                raise _StoppedError

        try:
            report = last_report(reports, show)
        except _StoppedError:
            reports.close()
            tqdm.write(f"stopped after {len(distances)} iterations; nothing was changed", file=sys.stderr)
            return 128 + signals[0]
    change = f"kernel distance x 1000 of other noise {1000 * report.before:.2f} -> {1000 * report.after:.2f}"
    spent = f"{time.perf_counter() - begun:.0f} s, {time.process_time() - cpu:.0f} s of CPU time"
    if report.steps is None:
        print(f"{args.steps} steps are not better than before: {change} ({spent}); nothing was changed")
        return 0
    print(f"{args.steps} tuned steps: {change} ({spent})")
    print(f"they are used by: fromnoise sample {args.model} --steps {args.steps}")
    return 0
