"""The index of a shard: where each image lies, its label and its attributes, as arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, BinaryIO

import numpy as np

from fromnoise.data.format import image_format
from fromnoise.data.label_table import LABEL_COLUMNS, TABLE_NAMES, parse_class
from fromnoise.data.shards.tar_members import Member, tar_members
from fromnoise.utils.errors import printable

_VERSION = 1
_LONGEST_CLASS = 1 << 10  # bytes of a .cls member
_LONGEST_JSON = 1 << 20
_NAMED = 10  # members left out whose names are kept


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of a shard lie.

    Attributes:
        offsets: of each image's file in the shard, in bytes, int64 (N,).
        sizes: of each image's file in bytes, int64 (N,).
        name_bytes: the names of the files, one after the other, in UTF-8.
        name_ends: where each name ends, int64 (N,).
        codes: index of each label in ``labels``, int32 (N,); -1 where it is unknown.
        labels: the distinct labels: whole numbers or words.
        attribute_names: names of the numbers that the images have.
        attributes: the numbers, float64 (N, A); NaN where they are unknown.
        tables: the label tables in the shard: name, offset, size.
        skipped: names of members that were left out, with the reason; at most ten.
        skipped_count: how many were left out.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    name_bytes: bytes
    name_ends: np.ndarray
    codes: np.ndarray
    labels: tuple[int | str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    attributes: np.ndarray | None = None
    tables: tuple[Member, ...] = ()
    skipped: tuple[str, ...] = ()
    skipped_count: int = 0

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.offsets)

    def name(self, i: int) -> str:
        """Name of the file of image ``i``."""
        start = int(self.name_ends[i - 1]) if i else 0
        return self.name_bytes[start : int(self.name_ends[i])].decode("utf-8", "surrogateescape")

    def to_bytes(self) -> bytes:
        """The index as the content of an .npz file."""
        meta = {
            "version": _VERSION,
            "labels": self.labels,
            "attribute_names": self.attribute_names,
            "tables": self.tables,
            "skipped": self.skipped,
            "skipped_count": self.skipped_count,
        }
        arrays = {key: getattr(self, key) for key in ("offsets", "sizes", "name_ends", "codes")}
        arrays["names"] = np.frombuffer(self.name_bytes, dtype=np.uint8)
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        if self.attributes is not None:
            arrays["attributes"] = self.attributes
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def index_from_arrays(arrays: Mapping[str, np.ndarray], size: int) -> ShardIndex:
    """Make an index of the arrays of an .npz file.

    Args:
        arrays: of the file.
        size: bytes of the shard.

    Raises:
        ValueError: the arrays are no index of a shard of this size.
    """
    try:
        meta = json.loads(arrays["meta"].tobytes())
        offsets, sizes, ends, codes = (arrays[key] for key in ("offsets", "sizes", "name_ends", "codes"))
        names = arrays["names"].tobytes()
        labels, attribute_names = tuple(meta["labels"]), tuple(meta["attribute_names"])
        tables = tuple(Member(str(name), int(at), int(count)) for name, at, count in meta["tables"])
        version, skipped, count = meta["version"], tuple(map(str, meta["skipped"])), int(meta["skipped_count"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no index of a shard ({type(error).__name__})") from None
    attributes = arrays.get("attributes")
    n = len(offsets)
    kinds = ((offsets, np.int64), (sizes, np.int64), (ends, np.int64), (codes, np.int32))
    right = version == _VERSION and all(a.dtype == kind and a.shape == (n,) for a, kind in kinds)
    right = right and all(type(label) in (int, str) for label in labels)
    right = right and (attributes is None) == (not attribute_names)
    if right and attributes is not None:
        right = attributes.dtype == np.float64 and attributes.shape == (n, len(attribute_names))
    if right and n:
        right = (
            int(offsets.min()) >= 0
            and int(sizes.min()) >= 0
            and int(offsets.max()) <= size
            and int((size - offsets - sizes).min()) >= 0
            and int(ends[0]) >= 0
            and bool((np.diff(ends) >= 0).all())
            and int(ends[-1]) == len(names)
            and -1 <= int(codes.min()) <= int(codes.max()) < len(labels)
        )
    if not right:
        raise ValueError("it is no index of this shard")
    return ShardIndex(offsets, sizes, names, ends, codes, labels, attribute_names, attributes, tables, skipped, count)


class IndexBuilder:
    """Collects the images of a shard, with constant memory per image."""

    def __init__(self) -> None:
        """An empty index."""
        self._numbers: list[tuple[int, int, int, int]] = []  # offset, size, end of the name, label
        self._blocks: list[np.ndarray] = []
        self._names = bytearray()
        self._codes: dict[int | str, int] = {}
        self._attribute_names: tuple[str, ...] | None = None
        self._attributes: list[np.ndarray] = []
        self._tables: list[Member] = []
        self._skipped: list[str] = []
        self._skipped_count = 0

    def add(self, member: Member, label: int | str | None, attributes: Mapping[str, float]) -> None:
        """Add an image.

        Args:
            member: its file.
            label: a whole number or a word; None if it is unknown.
            attributes: its numbers by name; the first image says which are used.
        """
        self._names += member.name.encode("utf-8", "surrogateescape")
        code = -1 if label is None else self._codes.setdefault(label, len(self._codes))
        self._numbers.append((member.offset, member.size, len(self._names), code))
        if len(self._numbers) == 4096:
            self._compact()
        if self._attribute_names is None:
            self._attribute_names = tuple(attributes)
        if self._attribute_names:
            self._attributes.append(np.array([attributes.get(name, np.nan) for name in self._attribute_names]))

    def add_table(self, member: Member) -> None:
        """Add a label table that lies in the shard."""
        if len(self._tables) < _NAMED:
            self._tables.append(member)

    def skip(self, name: str, reason: str) -> None:
        """Count a member that is left out."""
        self._skipped_count += 1
        if len(self._skipped) < _NAMED:
            self._skipped.append(printable(f"{name} ({reason})"))

    def _compact(self) -> None:
        self._blocks.append(np.array(self._numbers, dtype=np.int64).reshape(-1, 4))
        self._numbers = []

    def build(self) -> ShardIndex:
        """The index of what was added."""
        self._compact()
        offsets, sizes, ends, codes = (np.ascontiguousarray(column) for column in np.concatenate(self._blocks).T)
        names = self._attribute_names or ()
        return ShardIndex(
            offsets,
            sizes,
            bytes(self._names),
            ends,
            codes.astype(np.int32),
            tuple(self._codes),
            names,
            np.stack(self._attributes) if names else None,
            tuple(self._tables),
            tuple(self._skipped),
            self._skipped_count,
        )


def index_tar(file: BinaryIO, size: int) -> ShardIndex:
    """Index a .tar file of the WebDataset layout, or of plain images.

    Consecutive members whose names agree up to the first point of the file's name are a sample: an image
    (``key.jpg``, ``key.npy``, ...), and optionally its label in ``key.cls``, or its label and attributes in
    ``key.json``. Of several images in a labelled sample the first is used.

    Args:
        file: the archive, which can seek.
        size: its bytes.

    Raises:
        ValueError: it is no .tar file, or is damaged or truncated.
    """
    builder, sample = IndexBuilder(), _Sample("")
    for member in tar_members(file, size, builder.skip):
        folder, _, base = member.name.rpartition("/")
        if base.startswith(".") or "__MACOSX" in folder:
            continue
        stem, _, extension = base.partition(".")
        key = f"{folder}/{stem}"
        if key != sample.key:
            sample.add_to(builder)
            sample = _Sample(key)
        sample.take(member, base, extension.lower(), file, builder)
    sample.add_to(builder)
    return builder.build()


class _Sample:
    """Consecutive members with one key."""

    __slots__ = ("attributes", "images", "key", "label", "labelled")

    def __init__(self, key: str) -> None:
        self.key = key
        self.images: list[tuple[bool, Member]] = []  # whether its extension is a single one
        self.label: int | str | None = None
        self.attributes: dict[str, float] = {}
        self.labelled = False

    def take(self, member: Member, base: str, extension: str, file: BinaryIO, builder: IndexBuilder) -> None:
        """Use a member: an image, a label, a label table, or nothing."""
        if extension == "cls":
            self.labelled = True
            text = _content(member, file, _LONGEST_CLASS, builder)
            if text:
                self.label = parse_class(text)
        elif base.lower() in TABLE_NAMES:
            builder.add_table(member)
        elif extension == "json":
            self.labelled = True
            self._take_json(_content(member, file, _LONGEST_JSON, builder), member, builder)
        elif extension.endswith("npy") or _is_image(extension):
            self.images.append(("." not in extension, member))

    def _take_json(self, text: str, member: Member, builder: IndexBuilder) -> None:
        try:
            values = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            builder.skip(member.name, "no JSON")
            return
        if not isinstance(values, dict):
            return
        for key, value in values.items():
            if key.lower() in (*LABEL_COLUMNS, "cls"):
                if type(value) in (int, str) and value != "" and self.label is None:
                    self.label = parse_class(value)
            elif type(value) in (int, float) and abs(value) < 1e300 and isfinite(value):
                self.attributes[key] = float(value)

    def add_to(self, builder: IndexBuilder) -> None:
        """Add the image of the sample; the images, if they are not of the WebDataset layout."""
        if len(self.images) > 1 and (self.labelled or any(single for single, _ in self.images)):
            first = next((image for image in self.images if image[0]), self.images[0])
            for image in self.images:
                if image is not first:
                    builder.skip(image[1].name, "a further image of its sample")
            self.images = [first]
        for _, member in self.images:
            builder.add(member, self.label, self.attributes)


_KNOWN: dict[str, bool] = {}


def _is_image(extension: str) -> bool:
    """Whether a registered format reads images with this extension."""
    suffix = extension.rpartition(".")[2]
    if not _KNOWN.get(suffix):
        if len(_KNOWN) > 1000:
            _KNOWN.clear()
        _KNOWN[suffix] = image_format(f"x.{suffix}") is not None
    return _KNOWN[suffix]


def _content(member: Member, file: BinaryIO, limit: int, builder: IndexBuilder) -> str:
    """The text of a small member; empty if it is none."""
    if member.size > limit:
        builder.skip(member.name, f"{member.size} bytes")
        return ""
    file.seek(member.offset)
    try:
        return file.read(member.size).decode("utf-8").strip()
    except UnicodeDecodeError:
        builder.skip(member.name, "no UTF-8 text")
        return ""


def merge_labels(indices: Sequence[ShardIndex]) -> list[Any]:
    """The distinct labels of several shards, in the order in which they are found."""
    return list(dict.fromkeys(label for index in indices for label in index.labels))
