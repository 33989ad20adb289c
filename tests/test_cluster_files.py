"""The files of examples/cluster/: their syntax, and the commands that they start, with stand-ins for the programs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from fromnoise.cli import parser

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "cluster"
WORDS = ["train", "ho2020", "--out", "/shared/ho2020"]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def launched(words: list[str]):
    """The arguments of torchrun as it reads them, and those of fromnoise, which must be a command of it."""
    found = get_args_parser().parse_args(words)
    assert found.module and found.training_script == "fromnoise"
    parser("train")[0].parse_args(found.training_script_args)
    return found


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """``programs(name=script)`` puts programs of bash before those of this machine."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def write(**scripts: str) -> None:
        for name, text in scripts.items():
            path = tmp_path / "bin" / name.replace("_", "-")
            path.write_text(f"#!/usr/bin/env bash\n{text}\n")
            path.chmod(0o755)

    return write


def test_torchrun_over_hosts(programs, monkeypatch):
    """The command of a host; what is missing is named."""
    programs(torchrun='printf "%s\\n" "$@"', nvidia_smi="echo a; echo b; echo c")
    done = subprocess.run([FILES / "torchrun.sh", *WORDS], capture_output=True, text=True)
    assert done.returncode != 0 and "NODE_RANK: number of this host" in done.stderr
    for name, value in {"NODE_RANK": "1", "NODES": "2", "MASTER": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([FILES / "torchrun.sh", *WORDS], capture_output=True, text=True, check=True)
    found = launched(done.stdout.splitlines())
    assert (found.nnodes, found.node_rank, found.nproc_per_node) == ("2", 1, "3")
    assert (found.master_addr, found.master_port, found.max_restarts) == ("10.0.0.1", 29500, 3)
    assert found.training_script_args == WORDS


SLURM = {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "64", "SLURM_GPUS_ON_NODE": "8"}
SLURM |= {"SLURM_NNODES": "2", "SLURM_NODEID": "1"}
SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'


def test_slurm(programs, monkeypatch, tmp_path):
    """One torchrun on each host; at the end of the time the ranks get SIGTERM, and the job is queued again."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "log"
    scontrol = f'if [ "$1" = show ]; then printf "a1\\na2\\n"; else echo "$@" >> {log}; fi'
    programs(srun=SRUN, scontrol=scontrol, torchrun='printf "%s\\n" "$OMP_NUM_THREADS" "$@"; exit 3')
    done = subprocess.run(["bash", FILES / "slurm.sbatch", *WORDS], capture_output=True, text=True)
    threads, *words = done.stdout.splitlines()
    found = launched(words)
    assert threads == "8" and done.returncode == 3 and not log.exists()
    assert (found.nnodes, found.node_rank, found.nproc_per_node, found.master_addr) == ("2", 1, "8", "a1")
    assert found.master_port == 24711 and found.training_script_args == WORDS
    wait = f'trap "echo ended >> {log}; exit 1" TERM; touch {log}; while true; do sleep 0.02; done'
    programs(torchrun=wait)
    job = subprocess.Popen(["bash", FILES / "slurm.sbatch", *WORDS])
    end = time.monotonic() + 20
    while not log.exists():
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    job.wait(20)
    assert log.read_text().splitlines() == ["ended", "requeue 4711"]
    lines = re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", (FILES / "slurm.sbatch").read_text(), re.MULTILINE)
    options = dict(lines)
    assert options["ntasks-per-node"] == "1" and options["signal"] == "B:TERM@120"


def documents(name: str) -> dict[str, dict]:
    """The objects of a file by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FILES / name).read_text())}


def check_pod(spec: dict, claim: str) -> dict:
    """Volumes are declared, mounted and claimed; the container."""
    (container,) = spec["containers"]
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes.keys()
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
    assert any(each["mountPath"] == "/dev/shm" for each in container["volumeMounts"])
    assert all(isinstance(each["value"], str) for each in container["env"])
    assert container["command"] == ["torchrun"] and all(isinstance(word, str) for word in container["args"])
    return container


def test_kubernetes():
    """Pod 0 is the address of all; hosts, service and disk have the names that refer to them."""
    claim = documents("storage.yaml")["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    found = documents("kubernetes-job.yaml")
    job, service = found["Job"], found["Service"]
    name, spec = job["metadata"]["name"], job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] and pod["restartPolicy"] == "Never"
    container = check_pod(pod, claim["metadata"]["name"])
    arguments = launched([word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]])
    assert arguments.nnodes == str(spec["completions"]) and arguments.node_rank == 1
    assert arguments.master_addr == f"{name}-0.{service['metadata']['name']}"
    assert arguments.master_port == container["ports"][0]["containerPort"]
    assert arguments.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
    job = documents("kubeflow-pytorchjob.yaml")["PyTorchJob"]["spec"]
    replicas = job["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1 and replicas["Master"]["template"] == replicas["Worker"]["template"]
    container = check_pod(replicas["Master"]["template"]["spec"], claim["metadata"]["name"])
    assert container["name"] == "pytorch" and launched(container["args"]).training_script_args == WORDS
    assert job["nprocPerNode"] == str(container["resources"]["limits"]["nvidia.com/gpu"])


def test_dockerfile():
    """Instructions, files that exist, no root, and a command of the package."""
    text = re.sub(r"\\\n", " ", (FILES / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert {word for word, _ in lines} <= {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    copied = [name for word, rest in lines if word == "COPY" for name in rest.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    instructions = dict(lines)
    assert instructions["USER"] == "fromnoise" and '"fromnoise"' in instructions["ENTRYPOINT"]
    extras = re.search(r"/src\[(\w+)\]", text)
    assert extras is not None and f"\n{extras[1]} = [" in (ROOT / "pyproject.toml").read_text()


def test_every_file_is_shown_in_the_guide():
    """And nothing else lies there."""
    page = (ROOT / "docs" / "guide" / "clusters.md").read_text()
    assert {f"examples/cluster/{path.name}" for path in FILES.iterdir()} == set(
        re.findall(r'--8<-- "(examples/cluster/[\w.-]+)"', page)
    )
