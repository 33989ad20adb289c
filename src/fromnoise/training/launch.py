"""How a launcher started this process, and the start-up check: ranks find each other and add known numbers."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line

LONGEST_COLLECTIVE = timedelta(days=7)
"""Other ranks wait while the first one samples; the watchdog finds dead ranks."""
_NUMBERS = 4096  # added by the check


class NotConnected(UserError):
    """The processes do not find each other; all of them say so."""


@dataclass(frozen=True)
class Launch:
    """What torchrun, ``accelerate launch`` or a scheduler tells a process by environment variables.

    Attributes:
        rank: of this process.
        world: number of processes.
        local_rank: number of this process on its host.
        address: host name or address of rank 0.
        port: at which rank 0 listens.
        hosted: whether the launcher listens there, and not rank 0.
        attempt: number of restarts by the launcher.
        host: name of this host.
    """

    rank: int
    world: int
    local_rank: int
    address: str
    port: int
    hosted: bool
    attempt: int
    host: str

    @staticmethod
    def from_environment() -> Launch | None:
        """The launch of this process; None if it is the only one.

        Raises:
            UserError: a variable is missing or no number.
        """
        get = os.environ.get
        try:
            world = int(get("WORLD_SIZE", "1"))
            if world == 1:
                return None
            return Launch(
                rank=int(os.environ["RANK"]),
                world=world,
                local_rank=int(get("LOCAL_RANK", "0")),
                address=os.environ["MASTER_ADDR"],
                port=int(os.environ["MASTER_PORT"]),
                hosted=get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                attempt=int(get("TORCHELASTIC_RESTART_COUNT", "0")),
                host=socket.gethostname(),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"WORLD_SIZE is {get('WORLD_SIZE')}, but {error} of RANK, MASTER_ADDR and MASTER_PORT is missing or no "
                "number: start the processes by torchrun, or unset WORLD_SIZE"
            ) from None

    def __str__(self) -> str:
        """For messages."""
        return f"rank {self.rank} on {self.host}"

    def key(self, name: str) -> str:
        """The key of a value in the store; each attempt has its own."""
        return f"fromnoise/{self.attempt}/{name}"

    def store(self, seconds: float, master: bool = False) -> dist.Store:
        """A connection to the store of rank 0.

        Args:
            seconds: to wait for rank 0.
            master: make the store, in rank 0.

        Raises:
            NotConnected: rank 0 does not answer.
        """
        try:
            return dist.TCPStore(
                self.address,
                self.port,
                self.world,
                is_master=master and self.rank == 0 and not self.hosted,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except (RuntimeError, ValueError, OSError) as error:  # torch's errors of networks are RuntimeErrors
            raise NotConnected(self._unreachable(first_line(error), master)) from None

    def _unreachable(self, reason: str, master: bool) -> str:
        where = f"{self.address}:{self.port}"
        if master and self.rank == 0 and not self.hosted:
            return (
                f"{self} cannot listen at {where} ({reason}): MASTER_ADDR must be an address of the host of rank 0, "
                "and MASTER_PORT must be free there"
            )
        return (
            f"{self} does not reach rank 0 at {where} ({reason}): check that rank 0 is running, that MASTER_ADDR "
            "(--master_addr) is an address of its host, and that no firewall closes the port"
        )


def connect(launch: Launch, backend: str, seconds: float) -> tuple[dist.Store, list[str]]:
    """Initialize torch's process group, and check that the ranks add numbers rightly, before anything else is done.

    Args:
        launch: of this process.
        backend: gloo or nccl.
        seconds: for all of it; not less is waited for ranks that start late.

    Returns:
        The store of rank 0, and the host of each rank.

    Raises:
        NotConnected: a rank is missing or not reached.
        UserError: a sum is wrong.
    """
    deadline = time.monotonic() + seconds
    store = launch.store(0.8 * seconds, master=True)
    hosts = _join(launch, store, seconds, deadline)
    found: list[UserError | None] = []

    def run() -> None:
        try:
            if backend == "nccl":
                torch.cuda.set_device(launch.local_rank)
            group = dist.PrefixStore(launch.key("group"), store)
            dist.init_process_group(
                backend, store=group, rank=launch.rank, world_size=launch.world, timeout=LONGEST_COLLECTIVE
            )
            found.append(_add_numbers(launch, backend))
        except RuntimeError as error:
            found.append(NotConnected(_apart(launch, backend, first_line(error))))

    thread = threading.Thread(target=run, daemon=True, name="start-up check")
    thread.start()
    thread.join(max(1.0, deadline - time.monotonic()))
    if not found:
        raise NotConnected(_apart(launch, backend, f"no answer within {seconds:.0f} s"))
    if found[0] is not None:
        raise found[0]
    store.set_timeout(LONGEST_COLLECTIVE)
    return store, hosts


def _join(launch: Launch, store: dist.Store, seconds: float, deadline: float) -> list[str]:
    """Wait until every rank has written the name of its host; the names."""
    names = [launch.key(f"host/{rank}") for rank in range(launch.world)]
    try:
        store.set(names[launch.rank], launch.host)
        while missing := [rank for rank, name in enumerate(names) if not store.check([name])]:
            if time.monotonic() > deadline:
                listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
                raise NotConnected(
                    f"{launch}: {len(missing)} of {launch.world} ranks did not start within {seconds:.0f} s (missing: "
                    f"{listed}): start the same command on every host, with its own --node_rank, and read its output"
                )
            time.sleep(0.1)
        return [store.get(name).decode() for name in names]
    except RuntimeError as error:
        raise NotConnected(f"{launch} lost rank 0 at {launch.address}:{launch.port} ({first_line(error)})") from None


def _add_numbers(launch: Launch, backend: str) -> UserError | None:
    """All-reduce of known numbers; what is wrong with the sum."""
    device = torch.device("cuda", launch.local_rank) if backend == "nccl" else torch.device("cpu")
    numbers = torch.arange(_NUMBERS, dtype=torch.float32, device=device)
    total = numbers + launch.rank
    dist.all_reduce(total)
    expected = launch.world * numbers + launch.world * (launch.world - 1) / 2  # whole numbers, exact in float32
    wrong = int((total != expected).sum())
    if not wrong:
        return None
    return UserError(
        f"{launch}: {wrong} of {_NUMBERS} sums over all ranks are wrong, so that training would be: "
        + ("try NCCL_P2P_DISABLE=1, and " if backend == "nccl" else "")
        + "update drivers and torch"
    )


def _apart(launch: Launch, backend: str, reason: str) -> str:
    gpu = backend == "nccl"
    variable = "NCCL_SOCKET_IFNAME" if gpu else "GLOO_SOCKET_IFNAME"
    more = "; on one host try NCCL_P2P_DISABLE=1; NCCL_DEBUG=INFO tells more" if gpu else ""
    return (
        f"{launch} reaches rank 0 at {launch.address}:{launch.port}, but the {launch.world} ranks do not reach each "
        f"other by {backend} ({reason}): name the network interface between the hosts, {variable}=eth0, and open all "
        f"ports between them in the firewall{more}"
    )
