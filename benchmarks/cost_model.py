"""What training costs on several GPUs and with many images, by arithmetic: memory, communication, disks.

python benchmarks/cost_model.py [--recipe ho2020] [--nodes 8] [--gpus 8] [--images 1e9] [--side 32] [--batch 2048]
    [--bytes-per-image 3200] [--step-seconds 0.25] [--intra-gb 450] [--inter-gb 50] [--json FILE]

The number of parameters is counted, all else follows from it and from the flags by the formulas that are printed.
Nothing is measured: bandwidths are those of data sheets (GB/s in one direction: NVLink of a GPU, network of a host),
and the duration of a step without communication is an assumption.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from header import header

GB = 1e9
FLOAT = 4  # bytes
_MOMENTS = 2  # of Adam
_TAR_BLOCK = 512  # bytes: a header, and what content is padded to
_INDEX_BYTES = 8 + 8 + 8 + 4 + 8  # offset, size, end of the name, code of the label, class of the image


@dataclass(frozen=True)
class Cluster:
    """Hosts with GPUs.

    Attributes:
        nodes: hosts.
        gpus: of each host.
        intra: bandwidth of a GPU to the others of its host, bytes/s in one direction.
        inter: bandwidth of a host to the others, bytes/s in one direction.
    """

    nodes: int
    gpus: int
    intra: float
    inter: float

    @property
    def world(self) -> int:
        """Number of processes, one a GPU."""
        return self.nodes * self.gpus

    def ring_seconds(self, sent: float) -> float:
        """Duration of a collective in which every GPU sends so many bytes to its neighbour of one ring.

        The ring crosses each host's network once, so both links carry ``sent`` and the slower one decides.
        """
        return sent / (min(self.intra, self.inter) if self.nodes > 1 else self.intra) if self.world > 1 else 0.0


def ring_share(n: int) -> float:
    """(N - 1) / N, the part of a tensor that each of N ranks sends in an all-gather or a reduce-scatter by a ring."""
    return (n - 1) / n


def memory(parameters: int, averages: int, world: int = 1) -> dict[str, float]:
    """Bytes of a rank without activations, float32: weights, gradients, moments of Adam, averages; sharded by world."""
    parts = {"weights": 1, "gradients": 1, "moments": _MOMENTS, "averages": averages}
    return {name: FLOAT * count * parameters / world for name, count in parts.items()}


def ddp_sent(parameters: int, world: int) -> float:
    """Bytes that each rank sends in a step of DDP: reduce-scatter and all-gather of the gradients, 2 (N-1)/N 4 P."""
    return 2 * ring_share(world) * FLOAT * parameters


def fsdp_sent(parameters: int, world: int, accumulate: int = 1) -> float:
    """Bytes that each rank sends in a step of FSDP, 3 (N-1)/N 4 P for each micro-batch.

    Weights are gathered before the forward and before the backward pass, and gradients reduced and scattered.
    """
    return 3 * ring_share(world) * FLOAT * parameters * accumulate


def state_bytes(parameters: int, averages: int) -> int:
    """A state: weights, averages and moments in float32; headers and reports are left out."""
    return FLOAT * parameters * (1 + averages + _MOMENTS)


def shard_bytes(size: int) -> int:
    """Bytes of an image with a label in a .tar shard: two headers, and both contents padded to blocks."""
    return 2 * _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK + _TAR_BLOCK


def host_bytes(images: int, name: int = 13) -> dict[str, float]:
    """Bytes of a process that grow with the number of images on shards: the index, and the order of two epochs."""
    from fromnoise.data.shuffling import MAX_SORTED

    return {
        "index": images * (_INDEX_BYTES + name),
        "order": 2 * 8.0 * images if images <= MAX_SORTED else 0.0,
    }


def count_parameters(recipe: str, side: int) -> tuple[int, int]:
    """Parameters of the model of a recipe at 3 x side x side, and its number of averages."""
    from fromnoise import config
    from fromnoise.data.dataset_info import DatasetInfo
    from fromnoise.model import build

    found = config.load(recipe)
    model = build(found, DatasetInfo((3, side, side)))
    return model.parameters, len(found.ema.decays) + len(found.ema.widths) + found.ema.best_epoch


def lines(args: argparse.Namespace, parameters: int, averages: int) -> list[tuple[str, str, str]]:
    """Rows (quantity, arithmetic, result)."""
    cluster = Cluster(args.nodes, args.gpus, args.intra_gb * GB, args.inter_gb * GB)
    world, images = cluster.world, round(args.images)
    whole, sharded = memory(parameters, averages), memory(parameters, averages, world)
    kinds = " + ".join(f"{v / FLOAT / parameters:.0f}" for v in whole.values())
    ddp, fsdp = ddp_sent(parameters, world), fsdp_sent(parameters, world)
    state, per_image = state_bytes(parameters, averages), shard_bytes(args.bytes_per_image)
    rate = args.batch / args.step_seconds
    host = host_bytes(images)
    epoch = images / rate
    share = f"({world}-1)/{world}"
    return [
        (
            "parameters P",
            f"given, {averages} averages"
            if args.parameters
            else f"{args.recipe} at 3x{args.side}x{args.side}, {averages} averages",
            f"{parameters:,}",
        ),
        ("memory of a GPU without activations, DDP", f"4 B x ({kinds}) x P", _gb(sum(whole.values()))),
        (f"the same, FSDP over {world}", f"the above / {world}", _gb(sum(sharded.values()))),
        ("sent by a GPU in a step, DDP", f"2 x {share} x 4 B x P", _gb(ddp)),
        ("sent by a GPU in a step, FSDP", f"3 x {share} x 4 B x P", _gb(fsdp)),
        ("its time, one ring over all, DDP", f"{_gb(ddp)} / {args.inter_gb:g} GB/s", _ms(cluster.ring_seconds(ddp))),
        ("its time, FSDP", f"{_gb(fsdp)} / {args.inter_gb:g} GB/s", _ms(cluster.ring_seconds(fsdp))),
        (
            "part of a step, DDP, none of it hidden",
            f"t / (t + {args.step_seconds:g} s)",
            f"{cluster.ring_seconds(ddp) / (cluster.ring_seconds(ddp) + args.step_seconds):.1%}",
        ),
        ("a state", f"4 B x (1 + {averages} + {_MOMENTS}) x P", _gb(state)),
        ("the model file", "4 B x P", _gb(FLOAT * parameters)),
        ("images a second", f"{args.batch:,} / {args.step_seconds:g} s", f"{rate:,.0f}"),
        ("an image in a shard", f"2 x 512 + {args.bytes_per_image:,} in blocks of 512 + 512", f"{per_image:,} B"),
        ("all shards", f"{images:,} x {per_image:,} B", f"{images * per_image / 1e12:.2f} TB"),
        ("read from shards, all hosts", f"{rate:,.0f} x {per_image:,} B", f"{rate * per_image / GB:.3f} GB/s"),
        ("read from shards, a host", f"the above / {args.nodes}", f"{rate * per_image / args.nodes / GB:.4f} GB/s"),
        ("requests of an object store, not cached", "one an image", f"{rate:,.0f} /s"),
        ("an epoch", f"{images:,} / {rate:,.0f} s", f"{epoch / 86400:.2f} days"),
        ("index of the shards, a process", f"{_INDEX_BYTES + 13} B x {images:,}", _gb(host["index"])),
        ("the same, a host", f"the above x {args.gpus}", _gb(host["index"] * args.gpus)),
        ("order of two epochs, a process", "8 B x images x 2, or none", _gb(host["order"])),
    ]


def _gb(value: float) -> str:
    return f"{value / GB:.3g} GB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", default="ho2020", help="name of a recipe")
    add("--parameters", type=int, help="in place of those of the recipe")
    add("--nodes", type=int, default=8, help="hosts")
    add("--gpus", type=int, default=8, help="GPUs of a host")
    add("--images", type=float, default=1e9, help="of the data set")
    add("--side", type=int, default=32, help="of the images")
    add("--batch", type=int, default=2048, help="of all GPUs together")
    add("--bytes-per-image", type=int, default=128 + 3 * 32 * 32, help="of the file of an image; a .npy has 128 more")
    add("--step-seconds", type=float, default=0.25, help="of a step without communication; an assumption")
    add("--intra-gb", type=float, default=450.0, help="GB/s of a GPU to those of its host: NVLink 4")
    add("--inter-gb", type=float, default=50.0, help="GB/s of a host to others: 400 Gbit/s")
    add("--json", type=Path, help="also write the rows")
    args = parser.parse_args()
    parameters, averages = count_parameters(args.recipe, args.side)
    rows: list[Any] = lines(args, args.parameters or parameters, averages)
    print(header())
    print("| quantity | arithmetic | result |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
