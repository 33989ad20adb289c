"""States whose tensors are shared out over several files, for ``torch.distributed.checkpoint``.

    state/000000100.7f3a21c4.shards/00002.safetensors   the parts of tensors that process 2 held, with a digest
    state/000000100.safetensors                         the header, with the names and digests of the files above

The second is written last, by the first process, when all others have written theirs: without it the folder counts
for nothing. torch plans which process writes and reads which part; these files replace its own, which are pickles.
A part is named ``TENSOR@ROW,COLUMN,...`` by the position of its first element in the whole tensor.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult

from fromnoise.checkpoint.state_file import KEY
from fromnoise.checkpoint.tensor_file import DamagedFile, read, read_header, read_index, write
from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import first_line

_FOLDER = re.compile(r"[0-9]{9,}\.[0-9a-f]+\.shards")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 1 << 16

Template = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Makes the tensor of a name, shape and dtype into which a part or all of a saved tensor is read."""


# ---- writing


class ShardWriter(StorageWriter):
    """Writes the files of one state: each process its own, and the first one the file that makes them count.

    It copies the tensors to the CPU at once, so that training can go on while they are written.
    """

    should_synchronize_after_execute = False

    def __init__(
        self, path: Path, folder: str, header: dict[str, Any], on_commit: Callable[[], object] = lambda: None
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            path: of the file that is written last.
            folder: name of the folder beside it, the same in all processes, and new.
            header: of the state.
            on_commit: called in the first process when the state is complete.
        """
        self._path, self._folder, self._header, self._on_commit = path, path.with_name(folder), header, on_commit

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copy the parts of this process to the CPU."""
        return {name: t.detach().to("cpu", copy=True) for name, t in state_dict.items()}

    def synchronize_staging(self) -> None:
        """Nothing: ``stage`` waits for its copies."""

    def close(self) -> None:
        """Nothing is kept."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer is used once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: the folder is created with the first file."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Number the files."""
        return [replace(plan, storage_data=number) for number, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """Write the file of this process."""
        tensors: dict[str, Tensor] = {}
        shapes: dict[str, list[int]] = {}
        for item in plan.items:
            assert item.tensor_data is not None, item
            name, chunk = item.index.fqn, item.tensor_data.chunk
            tensors[f"{name}@{','.join(map(str, chunk.offsets))}"] = cast(Tensor, planner.resolve_data(item))
            shapes[name] = list(item.tensor_data.size)
        path = self._folder / _file_name(plan.storage_data)
        write(path, tensors, {"kind": "shard", "shapes": shapes})
        digest = read_header(path)["digest"]
        done: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        done.set_result([WriteResult(item.index, 0, (plan.storage_data, digest)) for item in plan.items])
        return done

    def finish(self, metadata: dcp_metadata.Metadata, results: list[list[WriteResult]]) -> None:
        """Write the file that makes the others count."""
        digests = dict(result.storage_data for written in results for result in written)
        listed = {"folder": self._folder.name, "digests": {str(number): digests[number] for number in sorted(digests)}}
        write(self._path, {}, self._header | {KEY: listed})
        self._on_commit()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """None is used."""
        return False


def save_async(writer: ShardWriter, tensors: dict[str, Tensor], group: Any) -> Any:
    """Copy the tensors of all processes, and write them in a thread; all processes call it together.

    Args:
        writer: of the state.
        tensors: DTensors, and tensors that are equal in all processes.
        group: of all processes, on CPUs, that nothing else uses until the end.

    Returns:
        A future for ``finished``.
    """
    return dcp.async_save(tensors, storage_writer=writer, process_group=group)


def finished(future: Any) -> None:
    """Wait for ``save_async``.

    Raises:
        UserError: a process could not write.
    """
    try:
        future.result()
    except dcp.api.CheckpointException as error:
        raise _cause(error) from None


# ---- reading


class _Place(NamedTuple):
    """Where a part of a tensor is stored: the number of the file, and the name in it."""

    file: int
    key: str


class ShardReader(StorageReader):
    """Reads parts of tensors from the files of a state, whether it is one file or several."""

    def __init__(self, path: Path) -> None:
        """Read the list of its files.

        Raises:
            DamagedFile: the header is damaged.
            UserError: it cannot be read.
        """
        self._path, listed = path, read_header(path).get(KEY)
        self._files: dict[int, tuple[Path, str | None]] = {0: (path, None)}
        if listed is not None:
            folder, digests = _checked(path, listed)
            self._files = {n: (folder / _file_name(n), digest) for n, digest in digests.items()}

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp_metadata.Metadata:
        """Names, shapes and parts of all tensors, from the headers of the files.

        Raises:
            DamagedFile: a file is missing or damaged, or the parts do not make up the tensors.
        """
        shapes: dict[str, tuple[list[int], torch.dtype]] = {}
        chunks: dict[str, list[dcp_metadata.ChunkStorageMetadata]] = {}
        places: dict[dcp_metadata.MetadataIndex, _Place] = {}
        for number, (path, digest) in self._files.items():
            index, header = self._index(path, digest)
            for key, (dtype, shape) in index.items():
                name, whole, offsets = (key, shape, [0] * len(shape))
                if digest is not None:
                    name, whole, offsets = _position(path, key, shape, header.get("shapes"))
                if shapes.setdefault(name, (whole, dtype)) != (whole, dtype):
                    raise DamagedFile(f"{path} is damaged: {name!r} has another shape or type than in the other files")
                chunk = dcp_metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(shape))
                chunks.setdefault(name, []).append(chunk)
                places[dcp_metadata.MetadataIndex(name, chunk.offsets)] = _Place(number, key)
        for name, (whole, _) in shapes.items():
            if sum(math.prod(chunk.sizes) for chunk in chunks[name]) != math.prod(whole):
                raise DamagedFile(f"{self._path} is damaged: its files do not have all of {name!r}")
        found = {
            name: dcp_metadata.TensorStorageMetadata(
                dcp_metadata.TensorProperties(dtype=dtype), torch.Size(whole), chunks[name]
            )
            for name, (whole, dtype) in shapes.items()
        }
        return dcp_metadata.Metadata(dict(found), storage_data=places)

    def _index(self, path: Path, digest: str | None) -> tuple[dict[str, tuple[torch.dtype, list[int]]], dict[str, Any]]:
        try:
            index, header = read_index(path)
        except DamagedFile:
            raise
        except UserError as error:
            raise DamagedFile(f"{self._path} is incomplete: {error}") from None
        if digest is not None and header.get("digest") != digest:
            raise DamagedFile(f"{path} is damaged: it is not the file that {self._path.name} names")
        return index, header

    def set_up_storage_reader(self, metadata: dcp_metadata.Metadata, *args: Any, **kwargs: Any) -> None:
        """Take what ``read_metadata`` returned."""
        self._places = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> torch.futures.Future[None]:
        """Read the files that hold what this process needs, one at a time, and check their digests."""
        by_file: dict[int, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self._places[item.storage_index].file, []).append(item)
        for number, items in by_file.items():
            tensors, _ = read(self._files[number][0])
            for item in items:
                part = tensors[self._places[item.storage_index].key]
                for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                    part = part.narrow(dim, start, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: torch.futures.Future[None] = torch.futures.Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a reader is used once."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """None is used."""
        return False


def whole_template(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """All of a tensor, for a process that holds the whole weights."""
    return torch.zeros(shape, dtype=dtype)


def read_parts(path: Path, template: Template = whole_template, group: Any = None) -> dict[str, Tensor]:
    """The tensors of a state, or their parts of this process.

    Args:
        path: of the state, which may be one file.
        template: makes the tensors that are filled, DTensors for parts.
        group: processes that all read together; None for this one alone.

    Raises:
        DamagedFile: a file is missing or damaged; raised in all processes.
        UserError: a file cannot be read.
    """
    reader, found = _same_everywhere(path, group)
    tensors = {
        name: template(name, entry.size, entry.properties.dtype)
        for name, entry in found.state_dict_metadata.items()
        if isinstance(entry, dcp_metadata.TensorStorageMetadata)
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process reads alone
            dcp.load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except dcp.api.CheckpointException as error:
        raise _cause(error) from None
    return tensors


def _same_everywhere(path: Path, group: Any) -> tuple[ShardReader, dcp_metadata.Metadata]:
    """A reader of a state and what it has; an error of any process is raised in all of them."""
    found, error = None, None
    try:
        reader = ShardReader(path)
        found = reader, reader.read_metadata()
    except UserError as raised:
        error = raised
    if group is not None:
        outcomes: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(outcomes, error, group=group)
        error = next((outcome for outcome in outcomes if outcome is not None), None)
    if error is not None:
        raise error
    assert found is not None
    return found


def _cause(error: dcp.api.CheckpointException) -> Exception:
    """The first error of any process."""
    rank, (cause, _) = min(error.failures.items())
    if isinstance(cause, UserError):
        return cause
    return RuntimeError(f"rank {rank}: {type(cause).__name__}: {first_line(cause)}")


def _file_name(number: int) -> str:
    return f"{number:05d}.safetensors"


def _checked(path: Path, listed: Any) -> tuple[Path, dict[int, str]]:
    """The folder and the digests of the files that a header lists.

    Raises:
        DamagedFile: they are something else.
    """
    problem = DamagedFile(f"{path} is damaged: its list of files cannot be read")
    if not isinstance(listed, dict):
        raise problem
    folder, digests = listed.get("folder"), listed.get("digests")
    if not isinstance(folder, str) or not _FOLDER.fullmatch(folder) or not isinstance(digests, dict):
        raise problem
    if not 0 < len(digests) <= _MOST_FILES:
        raise problem
    for number, digest in digests.items():
        if not re.fullmatch("[0-9]{1,5}", number) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise problem
    return path.with_name(folder), {int(number): digest for number, digest in digests.items()}


def _position(path: Path, key: str, shape: list[int], shapes: Any) -> tuple[str, list[int], list[int]]:
    """Name and shape of the whole tensor of a part, and the position of its first element.

    Raises:
        DamagedFile: the part does not lie in it.
    """
    name, _, text = key.rpartition("@")
    whole = shapes.get(name) if isinstance(shapes, dict) else None
    offsets = [int(number) for number in text.split(",")] if re.fullmatch("[0-9]{1,18}(,[0-9]{1,18})*", text) else []
    if isinstance(whole, list) and len(whole) == len(shape) == len(offsets):
        inside = (
            isinstance(end, int) and 0 <= o and o + size <= end
            for end, o, size in zip(whole, offsets, shape, strict=True)
        )
        if all(inside):
            return name, whole, offsets
    raise DamagedFile(f"{path} is damaged: {key[:200]!r} is no part of a tensor")
