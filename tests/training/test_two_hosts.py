"""Hosts as network namespaces: two joined by a veth pair, one rank in each, and four around a router with torchrun.

Links are cut, packets vanish, ranks are stopped and killed.

Needs root and the program ip. ``test_start_check.py`` has the same on one host, without root and in seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fromnoise import checkpoint

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root and ip"
    ),
]
SUBNET, PORT = "10.77.31", 29631
STEPS = 300


def ip(*words: str) -> None:
    """Run the program ip."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """Two namespaces with the addresses .1 and .2."""

    def __init__(self, folder: Path) -> None:
        """Join them."""
        self.names = [f"fn{os.getpid()}{side}" for side in "ab"]
        self.links = [f"{name}v" for name in self.names]
        self.addresses = [f"{SUBNET}.1", f"{SUBNET}.2"]
        self._folder, self._processes = folder, []
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for number, (name, link) in enumerate(zip(self.names, self.links, strict=True), 1):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"{SUBNET}.{number}/24", "dev", link)
            for device in (link, "lo"):
                ip("-n", name, "link", "set", device, "up")

    def start(self, number: int, words: list[str], **variables: str) -> subprocess.Popen:
        """Start a command on a host; its output goes to a file."""
        link = variables.pop("interface", self.links[number])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link, "CUDA_VISIBLE_DEVICES": ""}
        with (self._folder / f"host{number}.txt").open("w") as out:
            self._processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", self.names[number], *words],
                    stdout=out,
                    stderr=out,
                    env=environment | variables,
                )
            )
        return self._processes[-1]

    def train(self, out: Path, tiny: dict, steps: int = STEPS, address: str = f"{SUBNET}.1") -> list[subprocess.Popen]:
        """A rank on each host; ``ip netns exec`` becomes the command, so that its process is the rank."""
        found = []
        for rank in range(2):
            variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"}
            variables |= {"MASTER_ADDR": address, "MASTER_PORT": str(PORT)}
            found.append(self.start(rank, command(out, tiny, steps), **variables))
        return found

    def torchrun(self, nodes: int, out: Path, tiny: dict, steps: int = STEPS) -> list[subprocess.Popen]:
        """A torchrun node with one rank on each of the first hosts."""
        launcher = [str(Path(sys.executable).parent / "torchrun"), "--nnodes", str(nodes), "--nproc_per_node", "1"]
        launcher += ["--master_addr", self.addresses[0], "--master_port", str(PORT)]
        words = command(out, tiny, steps)[1:]
        return [self.start(node, [*launcher, "--node_rank", str(node), *words]) for node in range(nodes)]

    def kill(self, number: int) -> None:
        """End every process of a host."""
        listed = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True)
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def text(self, number: int) -> str:
        """What the last command on a host printed."""
        return (self._folder / f"host{number}.txt").read_text()

    def close(self) -> None:
        """End the processes, and remove the namespaces."""
        for number in range(len(self.addresses)):
            self.kill(number)
        for process in self._processes:
            process.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class RoutedHosts(Hosts):
    """Four namespaces around a fifth, which forwards."""

    def __init__(self, folder: Path) -> None:
        """Join them."""
        numbers = range(4)
        self.names = [f"fn{os.getpid()}{i}" for i in [*numbers, "r"]]
        self.links = [f"{name}v" for name in self.names[:4]]
        self.addresses = [f"10.77.{40 + i}.2" for i in numbers]
        self._folder, self._processes = folder, []
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        router = self.names[4]
        ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for i in numbers:
            name, link, gate = self.names[i], self.links[i], f"{self.names[i]}g"
            ip("link", "add", link, "type", "veth", "peer", "name", gate)
            for place, device, address in ((name, link, self.addresses[i]), (router, gate, f"10.77.{40 + i}.1")):
                ip("link", "set", device, "netns", place)
                ip("-n", place, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", place, "link", "set", device, "up")
            ip("-n", name, "route", "add", "default", "via", f"10.77.{40 + i}.1")


@pytest.fixture
def four(tmp_path):
    """Four hosts."""
    with contextlib.closing(RoutedHosts(tmp_path)) as found:
        yield found


@pytest.fixture
def hosts(tmp_path):
    """Two hosts."""
    with contextlib.closing(Hosts(tmp_path)) as found:
        yield found


def command(out: Path, tiny: dict, steps: int) -> list[str]:
    """Train the small network, with a state every ten steps."""
    values = tiny | {"network.dropout": 0, "train.checkpoint_steps": 10, "ema.decays": [0.9], "sample.count": 0}
    flags = [word for key, value in values.items() for word in (f"--{key}", str(value).lower())]
    words = ["-m", "fromnoise", "train", "digits", "--steps", str(steps), "--out", str(out), *flags]
    return [sys.executable, *words, "--device", "cpu", "--precision", "fp32"]


def wait_for_state(out: Path, step: int, seconds: float = 120.0) -> None:
    """Until the state of a step is written."""
    end = time.monotonic() + seconds
    while not any(int(p.stem) >= step for p in (out / "state").glob("0*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.05)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Weights and averages of the last state."""
    newest = max((out / "state").glob("0*.safetensors"))
    assert int(newest.stem) == STEPS
    return {name: t for name, t in checkpoint.read(newest)[0].items() if name.startswith(("model.", "ema."))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of one process."""
    from conftest import TINY

    out = tmp_path_factory.mktemp("one") / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command(out, TINY, STEPS), check=True, capture_output=True, env=environment)
    return weights(out)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest weight of each tensor above 1."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) / max(1.0, float(a[k].abs().max())) for k in a)


DISTURBANCES = {
    "cut": lambda hosts, found: ip("-n", hosts.names[1], "link", "set", hosts.links[1], "down"),
    "stop 1": lambda hosts, found: found[1].send_signal(signal.SIGSTOP),
    "stop 0": lambda hosts, found: found[0].send_signal(signal.SIGSTOP),
    "kill 1": lambda hosts, found: found[1].kill(),
    "kill 0": lambda hosts, found: found[0].kill(),
}


@pytest.mark.parametrize("name", ["nothing", *DISTURBANCES])
def test_two_hosts(hosts, tiny, tmp_path, undisturbed, name):
    """An end with the cause within a minute on every rank that can, and the weights of one process after it."""
    out = tmp_path / "run"
    found = hosts.train(out, tiny)
    if name != "nothing":
        wait_for_state(out, 10)
        DISTURBANCES[name](hosts, found)
        begin = time.monotonic()
        gone = int(name[-1]) if name != "cut" else None
        for rank, process in enumerate(found):
            if rank != gone:
                assert process.wait(60) == 2, hosts.text(rank)
                assert "has not answered for 20 s" in hosts.text(rank) and "Traceback" not in hosts.text(rank)
        print(f"{name}: ended after {time.monotonic() - begin:.0f} s")
        if gone is not None:
            found[gone].send_signal(signal.SIGCONT)
            found[gone].kill()
            found[gone].wait()
        subprocess.run(command(out, tiny, STEPS), check=True, capture_output=True)
    else:
        assert [process.wait(300) for process in found] == [0, 0], hosts.text(0)
    largest = difference(undisturbed, weights(out))
    print(f"{name}: largest difference {largest:.1e}")
    assert largest < 1e-5


def test_an_interface_that_does_not_lead_to_the_other_host(hosts, tiny, tmp_path):
    """Gloo on lo: both ranks say so, with the variable to set."""
    variables = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": f"{SUBNET}.1", "MASTER_PORT": str(PORT)}
    variables |= {"FROMNOISE_START_TIMEOUT": "25", "interface": "lo", "ACCELERATE_USE_CPU": "true"}
    words = command(tmp_path / "run", tiny, STEPS)
    found = [hosts.start(rank, words, RANK=str(rank), **variables) for rank in range(2)]
    for rank, process in enumerate(found):
        assert process.wait(60) == 2, hosts.text(rank)
        assert "do not reach each other by gloo" in hosts.text(rank) and "GLOO_SOCKET_IFNAME" in hosts.text(rank)


def test_an_address_at_which_nobody_is(hosts, tiny, tmp_path):
    """Within a minute, on both."""
    begin = time.monotonic()
    found = hosts.train(tmp_path / "run", tiny, address=f"{SUBNET}.9")
    for rank, process in enumerate(found):
        assert process.wait(70) == 2, hosts.text(rank)
        assert "MASTER_ADDR" in hosts.text(rank) and f"{SUBNET}.9:{PORT}" in hosts.text(rank)
        assert "Traceback" not in hosts.text(rank)
    assert time.monotonic() - begin < 70


def test_a_firewall(hosts, tiny, tmp_path):
    """Packets of host 1 to rank 0 vanish: both ranks end within a minute, and say what to check."""
    ip(
        "-n",
        hosts.names[1],
        "neigh",
        "replace",
        hosts.addresses[0],
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        hosts.links[1],
    )
    begin = time.monotonic()
    found = hosts.train(tmp_path / "run", tiny)
    for rank, process in enumerate(found):
        assert process.wait(70) == 2, hosts.text(rank)
        assert "Traceback" not in hosts.text(rank)
    assert "1 of 2 ranks did not start within 50 s (missing: 1)" in hosts.text(0)
    assert "does not reach rank 0" in hosts.text(1) and "firewall" in hosts.text(1)
    print(f"firewall: ended after {time.monotonic() - begin:.0f} s with the start of Python")


def test_torchrun_nodes(four, tiny, tmp_path, undisturbed):
    """Two nodes, of which one dies; the other ends with the cause, and four go on to the weights of one process."""
    out = tmp_path / "run"
    found = four.torchrun(2, out, tiny)
    wait_for_state(out, 10)
    four.kill(1)
    begin = time.monotonic()
    assert found[0].wait(60) == 1, four.text(0)
    assert "rank 1 on" in four.text(0) and "has not answered for 20 s" in four.text(0), four.text(0)
    print(f"torchrun: ended after {time.monotonic() - begin:.0f} s")
    found = four.torchrun(4, out, tiny)
    assert [process.wait(400) for process in found] == [0] * 4, four.text(0)
    assert "resuming from step" in four.text(0)
    largest = difference(undisturbed, weights(out))
    print(f"two, then four nodes: largest difference {largest:.1e}")
    assert largest < 1e-5
