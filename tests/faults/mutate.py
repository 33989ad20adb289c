"""Random damage to bytes, texts and nested values, and odd content in well-formed files."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from typing import Any

import numpy as np
from materials import idx, npy, parquet, pictures, tarred, zipped

INTEGERS = (0, 1, -1, 7, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**30)
ODD_TEXT = (
    *("", " ", "\0", "\n", "\r\n", "\t", "\x1b[31m", "\u202e", "é", "日本", "😀", "a" * 5000, "../../x", "/etc/passwd"),
    *("nan", "inf", "-inf", "1e999", "-0", "1_000", "0x10", "٣", "\u00b2", "true", "null", "None", "[]", "{}", "[[[[["),
    *('"', "'", "\\", "%s", "{0}", "=1+1", "#", "[a]", "[[a]]", "a.b = 1", ",", ",,,,", ";", "-1", "9" * 5000),
)
ODD_VALUES: tuple[Any, ...] = (
    *(*INTEGERS, 0.0, -0.5, 1e-300, 1e300, float("nan"), float("inf"), True, False, None),
    *(*ODD_TEXT, [], {}, [[]], [None], {"": None}, {"kind": "x"}, [1] * 1000, ["x"] * 1000),
)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutate_bytes(rng: random.Random, data: bytes, most: int = 3) -> bytes:
    """Damage bytes in one to ``most`` ways."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        # half of all damage is near the start, where headers are
        at = rng.randrange(min(len(out), 64) if rng.random() < 0.5 else len(out)) if out else 0
        size = min(len(out) - at, rng.choice((1, 2, 4, 8, 100)))
        way = rng.randrange(9)
        if way == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            out[at : at + size] = rng.choice((b"\0", b"\xff")) * size
        elif way == 2:
            out[at : at + size] = rng.randbytes(size)
        elif way == 3:
            del out[at:]
        elif way == 4:
            out += rng.choice((b"\0", b"\n", rng.randbytes(1))) * rng.choice((1, 9, 5000))
        elif way == 5:
            del out[at : at + size]
        elif way == 6:
            out[at:at] = out[: rng.choice((1, 16, 300))]
        elif way == 7:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTEGERS) % (1 << 8 * width)
            out[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        else:
            other = rng.randrange(len(out)) if out else 0
            a, b = bytes(out[at : at + 8]), bytes(out[other : other + 8])
            out[at : at + 8], out[other : other + 8] = b, a
    return bytes(out)


def mutate_text(rng: random.Random, text: str, most: int = 3) -> bytes:
    """Damage a text: its cells, words, lines or encoding."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(lines)) if lines else 0
        way = rng.randrange(7)
        if way < 3 and lines:
            separator = "," if "," in lines[at] else " "
            words = lines[at].split(separator)
            words[rng.randrange(len(words))] = rng.choice(ODD_TEXT)
            lines[at] = separator.join(words)
        elif way == 3 and lines:
            del lines[at]
        elif way == 4:
            lines.insert(at, rng.choice([*ODD_TEXT, *lines]))
        elif way == 5 and lines:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        elif lines:
            lines = [*lines[at:], *lines[:at]]
    out = "\n".join(lines) + rng.choice(("", "\n"))
    encoding = rng.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig", "utf-32"))
    data = out.encode(encoding, "surrogatepass")
    return mutate_bytes(rng, data, 1) if rng.random() < 0.2 else data


def mutate_nested(rng: random.Random, value: Any, most: int = 2) -> Any:
    """A copy of nested values with odd ones in one to ``most`` places."""
    out = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, most)):
        parents = list(_parents(out))
        if not parents:
            return rng.choice(ODD_VALUES)
        parent = rng.choice(parents)
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        way = rng.random()
        if way < 0.15:
            del parent[key]
        elif way < 0.2:
            parent[key] = nested(rng.choice((10, 100)))
        elif way < 0.3:
            values = [v for p in parents for v in (p.values() if isinstance(p, dict) else p)]
            parent[key] = copy.deepcopy(rng.choice(values))
        elif way < 0.4 and isinstance(parent, dict):
            parent[rng.choice(ODD_TEXT)] = rng.choice(ODD_VALUES)
        elif way < 0.6 and isinstance(parent[key], (int, float)):
            parent[key] = rng.choice((-1, 0, 2, 10, 1000, 1e9)) * parent[key]
        else:
            parent[key] = rng.choice(ODD_VALUES)
    return out


def _parents(value: Any) -> Any:
    if isinstance(value, (dict, list)) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _parents(inner)


# ---- well-formed files with odd content


def odd_array(rng: random.Random) -> np.ndarray:
    """An array that may or may not be images."""
    dtype = rng.choice("u1 i1 u2 i4 i8 f2 f4 f8 c8 ?? S3 U2 M8[s] V4 >f4 >u2".replace("??", "?").split())
    shape = rng.choice(((), (0,), (5,), (6, 64), (0, 8, 8), (6, 8, 8), (6, 1, 8, 8), (6, 8, 8, 3), (6, 7, 9, 5)))
    shape = rng.choice((shape, (1, 1, 1), (2, 0, 8), (6, 8, 8, 1, 1), (2, 3, 8, 8)))
    array = np.zeros(shape, dtype)
    if array.size and array.dtype.kind in "uif":
        array[...] = np.resize(pictures().ravel() % 120, shape)
        if array.dtype.kind == "f" and rng.random() < 0.7:
            array.flat[0] = rng.choice((np.nan, np.inf, -1e30, 1e30, 300.0, 0.5))
    return array


def odd_npy(rng: random.Random, data: bytes) -> bytes:
    """A .npy file with another header or another array."""
    if rng.random() < 0.4:
        return npy(odd_array(rng))
    shape = rng.choice(((6, 8, 8), (10**9, 10**9), (-6, 8, 8), (6, 8), (2**31, 1), (6, 8, 8, 0), (1.5,), "x"))
    values = {"descr": rng.choice(("|u1", "|O", "<f4", "|S0", "<U99", "|V0", "[('a','u1')]", 7)), "shape": shape}
    text = repr(values | {"fortran_order": rng.choice((False, True, None))})
    text = rng.choice((text, text[:-5], "(" * 3000, "__import__('os')", text.replace("shape", "shapes")))
    header = text.encode().ljust(rng.choice((64, 118, 5000))) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data[128:]


def odd_zip(rng: random.Random, data: bytes) -> bytes:
    """An archive whose members have odd names or content; its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    way = rng.randrange(6)
    if way == 0:
        members[name] = mutate_bytes(rng, members[name])
    elif way == 1:
        members[rng.choice(("../x.png", "/x.png", "C:\\x.png", "é.png", "a/" * 100 + "x.png", "x.png/"))] = members[
            name
        ]
    elif way == 2:
        members[rng.choice(("labels.csv", "labels.json", "dataset.json"))] = mutate_text(rng, "file,label\n0.png,3\n")
    elif way == 3:
        members[name] = zipped(members)
    elif way == 4:
        del members[name]
    else:
        members[name] = rng.choice((b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", rng.randbytes(200)))
    return zipped(members, rng.choice((0, 8, 8, 12, 14)))


def odd_tar(rng: random.Random, data: bytes) -> bytes:
    """An archive whose headers are changed and have right checksums, or whose members are odd."""
    if rng.random() < 0.4:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = {m.name: data[m.offset_data : m.offset_data + m.size] for m in archive.getmembers()}
        name = rng.choice(list(members))
        odd = rng.choice((mutate_bytes(rng, members[name]), b"", b"9" * 2000, b'{"label": [1]}', b"[" * 3000))
        names = ("../x.png", "/x.png", "é.png", "x.json", "0000.json", "labels.csv", "0000.npy", "a/" * 40 + "x.png")
        members[rng.choice((name, *names))] = odd
        return tarred(members)
    out = bytearray(data)
    headers = [at for at in range(0, len(out), 512) if out[at + 257 : at + 262] == b"ustar"]
    for at in rng.sample(headers, rng.randint(1, 3)):
        kinds = (156, rng.choice((b"x", b"g", b"L", b"K", b"1", b"2", b"3", b"5", b"6", b"S", b"7", b"z")))
        sizes = (b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"not octal\0  ", bytes(12), b"00000000001\0")
        place, new = rng.choice((kinds, (124, rng.choice(sizes)), (0, rng.choice((b"\0", b"\xff", b"/", b"..")) * 50)))
        out[at + place : at + place + len(new)] = new
        out[at + 148 : at + 156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def odd_npz(rng: random.Random, data: bytes) -> bytes:
    """An archive of odd arrays."""
    if rng.random() < 0.3:
        return odd_zip(rng, data)
    names = rng.choice((("images", "labels"), ("arr_0", "arr_1"), ("x_train", "y_train"), ("x", "y"), ("labels",)))
    arrays = [npy(pictures()[:6]), npy(np.arange(6))]
    arrays[rng.randrange(2)] = odd_npy(rng, arrays[0]) if rng.random() < 0.4 else npy(odd_array(rng))
    return zipped({f"{name}.npy": array for name, array in zip(names, arrays, strict=False)})


def odd_idx(rng: random.Random, data: bytes) -> bytes:
    """An IDX file with another type, rank or size."""
    if rng.random() < 0.4:
        return idx(np.zeros(rng.choice(((0, 8, 8), (6, 8), (6,), (6, 8, 8, 3), (6, 1, 1), (5, 8, 8))), np.uint8))
    sizes = [rng.choice((0, 1, 6, 8, 2**16, 2**31, 2**32 - 1)) for _ in range(rng.choice((1, 3, 3, 4)))]
    kind, rank = rng.choice((8, 9, 11, 12, 13, 14, 0, 99)), rng.choice((len(sizes), 0, 200, 255))
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, rank, *sizes) + data[16:]


def odd_png(rng: random.Random, data: bytes) -> bytes:
    """A PNG file with one other chunk; its checksums are right."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = rng.randrange(len(chunks))
    name, body = chunks[which]
    kinds = (b"iTXt", b"zTXt", b"iCCP", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"IDAT", b"IHDR", b"\0\0\0\0")
    way = rng.randrange(4)
    if way == 0:
        chunks[which] = (name, mutate_bytes(rng, body))
    elif way == 1:
        chunks.insert(which, (rng.choice(kinds), rng.randbytes(rng.choice((0, 4, 40)))))
    elif way == 2:
        chunks.insert(which, (b"zTXt", b"a\0\0" + zlib.compress(bytes(rng.choice((10, 10**7))))))
    else:
        width, height = rng.choice((0, 1, 8, 10**5, 2**31 - 1)), rng.choice((0, 1, 8, 10**5, 2**31))
        chunks[0] = (
            b"IHDR",
            struct.pack(">IIBBBBB", width, height, rng.choice((1, 8, 16, 3)), rng.randrange(8), 0, 0, 0),
        )
    out = data[:8]
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return out


def odd_parquet(rng: random.Random, data: bytes) -> bytes:
    """A parquet file with other columns."""
    image = rng.choice(
        (
            [{"bytes": b"\x89PNG", "path": None}] * 3,
            [{"bytes": None, "path": "/etc/passwd"}] * 3,
            *([b""] * 3, [None] * 3, ["x.png"] * 3, [b"no image"] * 3, [[0, 255], [3], []], [1, 2, 3], [[[0.5]]] * 3),
            [],
        )
    )
    label = rng.choice(([0, 1, 2], [None] * 3, ["a", "b", None], [1.5, 2.5, 0.1], [-1, 2**62, 0], [[1], [2], [3]]))
    names = rng.choice((("image", "label"), ("img", "labels"), ("a", "b"), ("image", "image2"), ("", "label")))
    return parquet(dict(zip(names, (image, label[: len(image)]), strict=True)))


def odd_gzip(rng: random.Random, data: bytes) -> bytes:
    """A gzip file of a damaged file; its checksum is right."""
    inner = gzip.decompress(data)
    inner = odd_idx(rng, inner) if rng.random() < 0.5 else mutate_bytes(rng, inner)
    return gzip.compress(inner, mtime=0) + rng.choice((b"", b"", bytes(100), b"\x1f\x8b", gzip.compress(b"x")))


ODD_CONTENT = {
    "x.png": odd_png,
    "train-images-idx3-ubyte": odd_idx,
    "train-images-idx3-ubyte.gz": odd_gzip,
    "x.npy": odd_npy,
    "x.npz": odd_npz,
    "x.zip": odd_zip,
    "x.tar": odd_tar,
    "x.parquet": odd_parquet,
}
"""By the name of the valid file; formats that are not here are damaged as bytes or text only."""
