"""The start-up check of several processes, and ranks that die or stall: two or three forked ranks on loopback, gloo."""

from __future__ import annotations

import signal
import socket
import time

import pytest
import torch
import torch.distributed as dist

from fromnoise.training import distributed
from fromnoise.training.launch import Launch, NotConnected, connect
from fromnoise.utils.errors import UserError
from ranks import Rank, Ranks, free_port, launch

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


@pytest.fixture
def ranks(tmp_path):
    """Starts ranks that end with the test."""
    with Ranks(tmp_path) as found:
        yield found


def environment(rank: int, world: int, port: int, **more: str) -> dict[str, str]:
    """The variables that torchrun sets, with short time-outs."""
    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    names |= {"FROMNOISE_START_TIMEOUT": 20, "FROMNOISE_STALL_TIMEOUT": 2, "ACCELERATE_USE_CPU": "true"}
    return {name: str(value) for name, value in names.items()} | more


# ---- the start


def test_ranks_add_known_numbers(ranks):
    """Each learns the hosts of all."""
    port = free_port()

    def work(rank: int) -> None:
        _, hosts = connect(launch(rank, 2, port), "gloo", 20)
        assert hosts == ["host0", "host1"] and dist.get_world_size() == 2

    found = [ranks.start(lambda rank=rank: work(rank)) for rank in range(2)]
    assert [rank.wait(30) for rank in found] == [0, 0], [rank.text for rank in found]


def test_missing_rank(ranks):
    """Named, in time."""
    start = time.monotonic()
    rank = ranks.start(lambda: connect(launch(0, 3, free_port()), "gloo", 1.0))
    assert rank.wait(20) == 2 and time.monotonic() - start < 15
    assert "rank 0 on host0: 2 of 3 ranks did not start within 1 s (missing: 1, 2)" in rank.text
    assert len([line for line in rank.text.splitlines() if line.startswith("fromnoise:")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-host.invalid"])
def test_wrong_address_or_closed_port(ranks, address):
    """One line that names this rank, the address, and what to check."""
    port = free_port()
    rank = ranks.start(lambda: connect(launch(1, 2, port, address), "gloo", 1.0))
    assert rank.wait(30) == 2
    message = rank.text.strip().splitlines()[-1]
    assert message.startswith(f"fromnoise: rank 1 on host1 does not reach rank 0 at {address}:{port} (")
    assert "MASTER_ADDR" in message and "firewall" in message


def test_port_in_use(ranks):
    """Of rank 0."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        rank = ranks.start(lambda: connect(launch(0, 2, port), "gloo", 1.0))
        assert rank.wait(30) == 2
        assert f"rank 0 on host0 cannot listen at 127.0.0.1:{port}" in rank.text and "MASTER_PORT" in rank.text


@pytest.mark.slow
def test_wrong_interface(ranks):
    """Ranks that reach rank 0 and not each other get a message that names the interface."""
    port = free_port()
    wrong = {"GLOO_SOCKET_IFNAME": "nothing0"}
    found = [ranks.start(lambda r=r: connect(launch(r, 2, port), "gloo", 3.0), wrong if r else {}) for r in range(2)]
    assert [rank.wait(30) for rank in found] == [2, 2]
    for rank in found:
        assert "do not reach each other by gloo" in rank.text and "GLOO_SOCKET_IFNAME" in rank.text


def test_wrong_sum(ranks, monkeypatch):
    """A rank whose sum is not the known one says so; the other may find it gone before it has compared its own."""
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    port = free_port()
    found = [ranks.start(lambda r=r: connect(launch(r, 2, port), "gloo", 20)) for r in range(2)]
    assert [rank.wait(30) for rank in found] == [2, 2]
    unequal = (4096, 4095)  # i is never 2 i + 1; i + 1 is once
    wrong = [
        f"rank {r} on host{r}: {n} of 4096 sums over all ranks are wrong" in found[r].text
        for r, n in enumerate(unequal)
    ]
    assert any(wrong), [rank.text for rank in found]


def test_environment_of_a_launch(monkeypatch):
    """Nothing without a launcher; incomplete variables are one line."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Launch.from_environment() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but 'RANK'"):
        Launch.from_environment()
    for name, value in environment(1, 2, 29500).items():
        monkeypatch.setenv(name, value)
    found = Launch.from_environment()
    assert found is not None and (found.rank, found.port, found.hosted, found.attempt) == (1, 29500, False, 0)
    assert str(found) == f"rank 1 on {socket.gethostname()}"
    monkeypatch.setenv("FROMNOISE_STALL_TIMEOUT", "soon")
    with pytest.raises(UserError, match="FROMNOISE_STALL_TIMEOUT=soon must be a number of seconds"):
        distributed._seconds("STALL", 1.0)


# ---- equal on all ranks


@pytest.mark.slow
@pytest.mark.parametrize("key", ["train.lr", "the fingerprint of the data"])
def test_differences_between_ranks(ranks, key):
    """The first one is named on all ranks, and printed once on a host."""
    port = free_port()

    def work(rank: int) -> None:
        with distributed.processes("cpu"):
            distributed.check_equal({"other": "1", key: "a"})
            distributed.check_equal({"other": "1", key: "ab"[rank]})

    found = [ranks.start(lambda r=r: work(r), environment(r, 2, port)) for r in range(2)]
    assert [rank.wait(30) for rank in found] == [2, 2]
    host = socket.gethostname()
    assert f"rank 1 on {host} has {key} b, but rank 0 on {host} has a: start the same command" in found[0].text
    assert "fromnoise" not in found[1].text


# ---- ranks that die or stall


def reduce_for_ever(rank: int) -> None:
    """Exchange numbers until a rank fails."""
    with distributed.processes("cpu"):
        print("started")
        while True:
            dist.all_reduce(torch.ones(1))
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_rank_that_dies_or_stalls(ranks, victim):
    """The others end within the time-out and a few seconds, with the cause and no traceback; two runs at a time."""
    launched: list[list[Rank]] = []
    for _ in range(2):
        of_launch = [environment(rank, 3, port, LOCAL_RANK="0") for port in [free_port()] for rank in range(3)]
        launched.append(
            [ranks.start(lambda r=r: reduce_for_ever(r), variables) for r, variables in enumerate(of_launch)]
        )
        for rank in launched[-1]:
            rank.wait_for("started")
    time.sleep(1.5)  # a heartbeat or two
    start = time.monotonic()
    for found, number in zip(launched, (signal.SIGKILL, signal.SIGSTOP), strict=True):
        found[victim].kill(number)
    for found in launched:
        for other in (rank for i, rank in enumerate(found) if i != victim):
            assert other.wait(30) == 2, other.text
            assert "Traceback" not in other.text
            assert f"rank {victim} on {socket.gethostname()} has not answered for 2 s" in other.text, other.text
    assert time.monotonic() - start < 15


@pytest.mark.slow
@pytest.mark.parametrize("error", [UserError("no images here"), ValueError("a bug")])
def test_rank_that_fails(ranks, error):
    """The others end at once, with its message; only the one with a bug has a traceback."""
    port = free_port()

    def work(rank: int) -> None:
        with distributed.processes("cpu"):
            if rank == 1:
                raise error
            dist.all_reduce(torch.ones(1))

    found = [ranks.start(lambda r=r: work(r), environment(r, 2, port, LOCAL_RANK="0")) for r in range(2)]
    codes = [rank.wait(20) for rank in found]
    assert codes == [2, 2 if isinstance(error, UserError) else 1]
    assert "rank 1 on" in found[0].text and str(error) in found[0].text and "Traceback" not in found[0].text
    assert ("Traceback" in found[1].text) == isinstance(error, ValueError)


@pytest.mark.slow
def test_ranks_that_end_at_different_times(ranks):
    """A rank that is done is not dead."""
    port = free_port()

    def work(rank: int) -> None:
        with distributed.processes("cpu"):
            dist.barrier()
            time.sleep(3 if rank == 0 else 0)

    found = [ranks.start(lambda r=r: work(r), environment(r, 2, port)) for r in range(2)]
    assert [rank.wait(30) for rank in found] == [0, 0], [rank.text for rank in found]


def test_the_failure_of_a_start_is_one_of_the_users():
    """So that the command line prints one line."""
    assert issubclass(NotConnected, UserError)
