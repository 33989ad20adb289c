"""The processes of a run: started and watched together, equal in what they train, and what they exchange."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fromnoise import __version__
from fromnoise.config import Recipe, flat
from fromnoise.data import Data
from fromnoise.diffusion.losses import LossTerms
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.training.launch import Launch, NotConnected, connect
from fromnoise.training.watchdog import EXIT_CODE, Watchdog
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line

if TYPE_CHECKING:  # it takes long to import, and not every verb needs it
    from accelerate import Accelerator

START_SECONDS, STALL_SECONDS = 50.0, 20.0
"""Defaults of FROMNOISE_START_TIMEOUT and FROMNOISE_STALL_TIMEOUT: ranks find each other, and a rank may be silent."""
_OF_A_HOST = ("data.source", "data.workers", "data.memory_gb", "train.threads")
"""Keys of the recipe that may differ between hosts; the fingerprint says whether the data are the same."""
_LOST = ("connection", "socket", "nccl", "gloo", "broken pipe", "timed out", "timeout", "store", "end of file")


@contextlib.contextmanager
def processes(device: str | None = None) -> Iterator[None]:
    """Check the communication of all processes, and end all of them if one dies or stalls in the block.

    Without a launcher, and where the process group exists already, it does nothing. With one, a rank that fails in the
    block tells the others why; those that fail only because of it say nothing but that.

    Args:
        device: as ``select_device``; gloo connects CPUs, NCCL GPUs.

    Raises:
        UserError: the processes do not reach each other.
    """
    launch = Launch.from_environment()
    if launch is None or dist.is_initialized():
        yield
        return
    backend = "nccl" if torch.cuda.is_available() and device != "cpu" else "gloo"
    try:
        _, hosts = connect(launch, backend, _seconds("START", START_SECONDS))
    except NotConnected:
        if launch.local_rank:
            raise SystemExit(EXIT_CODE) from None  # once a host is enough
        raise
    watchdog = Watchdog(launch, hosts, _seconds("STALL", STALL_SECONDS))
    try:
        yield
    except UserError as error:
        twice = watchdog.also_said_by(launch.rank - launch.local_rank, str(error))
        watchdog.fail(f"{launch}: {error}")
        if twice:
            raise SystemExit(EXIT_CODE) from None
        raise UserError(str(error) if str(error).startswith("rank ") else f"{launch}: {error}") from None
    except GeneratorExit:  # the caller has enough
        watchdog.close()
        raise
    except (RuntimeError, OSError) as error:
        if not _is_lost(error):
            watchdog.fail(f"{launch}: {first_line(error)}")
            raise
        watchdog.wait_for_cause()
        watchdog.close()
        reason = re.sub(r"^\[/\S+\] ", "", first_line(error))  # a line of gloo's source
        raise UserError(f"{launch} lost the connection to another rank: {reason}") from None
    except BaseException as error:
        watchdog.fail(f"{launch}: {type(error).__name__}: {first_line(error)}")
        raise
    watchdog.close()


def make_accelerator(cpu: bool) -> Accelerator:
    """The processes of a run; accelerate manages them alone: device, precision and batch size are ours.

    Accelerate keeps the device and the processes of the first accelerator of a program. If they are others now it
    forgets them here, so that a program can train on a GPU and then on the CPU, or alone and then with others.

    Args:
        cpu: whether the CPU is used where there is a GPU.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, is_initialized

    count = dist.get_world_size() if dist.is_initialized() else 1
    if is_initialized():
        known = AcceleratorState()
        if known.num_processes != count or (count == 1 and (known.device.type == "cpu") != cpu):
            AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001
    return Accelerator(cpu=cpu, mixed_precision="no", device_placement=False)


def _seconds(name: str, default: float) -> float:
    """Seconds by an environment variable.

    Raises:
        UserError: it is no positive number.
    """
    text = os.environ.get(f"FROMNOISE_{name}_TIMEOUT", str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UserError(f"FROMNOISE_{name}_TIMEOUT={text} must be a number of seconds above 0")
    return value


def _is_lost(error: Exception) -> bool:
    """Whether an error comes from the communication between ranks."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)


# ---- equal on all ranks


def software(compute: ComputeConfig) -> dict[str, str]:
    """Versions, device and precision."""
    named = {"the version of fromnoise": __version__, "the version of torch": torch.__version__}
    return named | {"device and precision": f"{compute.device.type} in {str(compute.dtype).removeprefix('torch.')}"}


def identity(recipe: Recipe, data: Data, compute: ComputeConfig) -> dict[str, str]:
    """What must be equal on all ranks before the model is built: versions, recipe, images, random numbers."""
    ids = torch.arange(8)
    numbers = Noise(recipe.train.seed, ids).normal((16,), Stream.DATA, like=torch.empty(0, dtype=torch.float64))
    named = software(compute)
    named |= {key: str(value) for key, value in flat(recipe).items() if key not in _OF_A_HOST}
    sizes = f"{len(data.train)} training and {len(data.held_out)} held-out images {'x'.join(map(str, data.shape))}"
    named |= {"the data": sizes, "the fingerprint of the data": data.fingerprint}
    return named | {"the random numbers": hashlib.sha256(numbers.numpy().tobytes()).hexdigest()[:16]}


def weights_identity(module: nn.Module) -> dict[str, str]:
    """The weights, which must be equal on all ranks."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {"the weights": digest.hexdigest()}


def check_equal(mine: Mapping[str, str]) -> None:
    """Compare values with those of the other ranks, if there are any.

    Raises:
        UserError: they differ from those of rank 0; the line names the first difference.
    """
    launch = Launch.from_environment()
    if launch is None or not dist.is_initialized():
        return
    found = cast("list[tuple[str, dict[str, str]]]", [None] * launch.world)
    dist.all_gather_object(found, (str(launch), dict(mine)))
    (first, expected), *others = found
    for name, values in others:
        for key in expected | values:
            if values.get(key) != expected.get(key):
                raise UserError(
                    f"{name} has {key} {values.get(key, 'unset')}, but {first} has {expected.get(key, 'unset')}: start "
                    "the same command with the same versions and data on every host"
                )


def device_of_rank(device: str | None) -> str | None:
    """The device of this process: several processes of a host have a GPU each, whatever ``device`` says."""
    launch = Launch.from_environment()
    if launch is None or device == "cpu" or not torch.cuda.is_available():
        return device
    return f"cuda:{launch.local_rank}"


def check_same_step(accelerator: Accelerator, device: torch.device, step: int) -> None:
    """Wait for all processes, and check that they resumed from the same step.

    Raises:
        UserError: they read different run directories.
    """
    if accelerator.num_processes > 1:
        steps = cast(Tensor, accelerator.gather(torch.tensor([step], device=device)))
        if int(steps.min()) != int(steps.max()):
            raise UserError(
                "the processes read different run directories: --out must be on a disk that all processes share"
            )


def sync_clock_and_stop(
    accelerator: Accelerator, device: torch.device, seconds: float, stop_requested: bool
) -> tuple[float, bool]:
    """Agree on the time and on stopping.

    Args:
        accelerator: the processes.
        device: of this process.
        seconds: training time by this process's clock.
        stop_requested: whether this process is asked to stop.

    Returns:
        The clock of the first process, and whether any process is asked to stop.
    """
    if accelerator.num_processes == 1:
        return seconds, stop_requested
    local = torch.tensor([seconds if accelerator.is_main_process else 0.0, float(stop_requested)], device=device)
    clock, stop_requests = cast(Tensor, accelerator.reduce(local, "sum")).tolist()
    return clock, stop_requests > 0


def gather_losses(accelerator: Accelerator, device: torch.device, terms: list[LossTerms], time_sampler: Any) -> float:
    """Collect the losses of a step, and update the sampler of its times.

    Args:
        accelerator: the processes.
        device: of this process.
        terms: losses of the micro-batches of this process.
        time_sampler: as of ``time_samplers.TimeSampler``.

    Returns:
        The mean weighted loss over all processes.
    """
    local = torch.stack(
        [torch.cat([part.weighted.detach() for part in terms]), torch.cat([part.unweighted for part in terms])], 1
    )
    losses = cast(Tensor, accelerator.gather(local)).cpu()
    if time_sampler.state_dict() and bool(losses.isfinite().all()):
        u = torch.cat([part.u for part in terms]).to(device)
        time_sampler.update(cast(Tensor, accelerator.gather(u)).cpu(), losses[:, 1])
    return float(losses[:, 0].mean())
