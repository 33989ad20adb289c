"""``fromnoise tune``."""

from __future__ import annotations

import argparse
import sys

HELP = "learn the time steps and coefficients of the sampler for a number of steps"
EPILOG = """A few dozen numbers are learned by comparing samples with those of more steps from the same noise; the
network stays as it is. They are kept in model.safetensors and used when that number of steps is asked, unless
--no-tuned is given.

examples:
  fromnoise tune runs/mine --steps 5
  fromnoise sample runs/mine --steps 5 -n 100 --out samples.png"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory or a .safetensors file")
    add("--steps", metavar="K", type=int, default=5, help="number of sampling steps")
    add("--teacher", metavar="T", type=int, help="steps whose samples are approximated (default: 20, or 2 K if more)")
    add("--guidance", metavar="S", type=float, help="guidance scale; 1 is none (default: that of the recipe)")
    add("--iterations", metavar="N", type=int, default=160, help="optimizer steps")
    add("--batch", metavar="B", type=int, default=32, help="samples in each")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")


class _StoppedError(Exception):
    """A signal arrived."""


def run(args: argparse.Namespace) -> int:
    """Tune, and say what was kept."""
    from fromnoise.cli.common import check_minimum

    check_minimum(("--steps", args.steps, 1), ("--iterations", args.iterations, 1), ("--batch", args.batch, 1))
    import time
    from statistics import mean

    from tqdm import tqdm

    from fromnoise.training.run import stop_on_signal
    from fromnoise.tuning import TuningStep, last_report, tune_run

    begun, cpu = time.perf_counter(), time.process_time()
    reports = tune_run(
        args.model,
        args.steps,
        teacher=args.teacher,
        guidance=args.guidance,
        iterations=args.iterations,
        batch=args.batch,
        device=args.device,
        precision=args.precision,
    )
    distances: list[float] = []
    # a flag, because Python drops a KeyboardInterrupt that is raised in a callback of another library
    with stop_on_signal(lambda: None) as signals, tqdm(total=args.iterations, unit="iteration") as bar:

        def show(step: TuningStep) -> None:
            distances.append(step.distance)
            bar.set_description_str(f"distance {mean(distances[-20:]):.4f}", refresh=False)
            bar.update()
            if signals:
                raise _StoppedError

        try:
            report = last_report(reports, show)
        except _StoppedError:
            reports.close()
            tqdm.write(f"stopped after {len(distances)} iterations; nothing was changed", file=sys.stderr)
            return 128 + signals[0]
    change = f"distance to samples of more steps, of other noise: {report.before:.4f} -> {report.after:.4f}"
    spent = f"{time.perf_counter() - begun:.0f} s, {time.process_time() - cpu:.0f} s of CPU time"
    if report.steps is None:
        print(f"{args.steps} steps are not better than before: {change} ({spent}); nothing was changed")
        return 0
    print(f"{args.steps} tuned steps: {change} ({spent})")
    guidance = "" if args.guidance is None else f" --guidance {args.guidance:g}"
    print(f"they are used by: fromnoise sample {args.model} --steps {args.steps}{guidance}")
    return 0
