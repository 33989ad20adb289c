"""A way to call the command line, flags that make a run tiny, and the streams of the server, taken apart."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np

from fromnoise.cli import main

INTERPRETER = sys.executable
"""Python itself, in whose place ``conftest.py`` puts a program that forks."""
SMALL = [
    *("--network.width", "8", "--network.multipliers", "[1]", "--network.groups", "4"),
    *("--network.attention_resolutions", "[]", "--network.heads", "1", "--network.middle_attention", "false"),
    *("--train.batch", "8", "--train.held_out", "8", "--train.evaluations", "1", "--train.report_every", "1"),
    *("--sample.count", "2", "--sample.steps", "2"),
]
ORIGIN = {"origin": "http://127.0.0.1:7860"}


def fromnoise(*words: object) -> str:
    """``fromnoise WORDS`` in this process, which must succeed; what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(w) for w in words]) == 0, err.getvalue()
    return out.getvalue()


def answers(content: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Headers and bytes of a stream."""
    found = []
    while content:
        line, _, content = content.partition(b"\n")
        header = json.loads(line)
        size = header.get("bytes", 0)
        found.append((header, content[:size]))
        content = content[size:]
    return found


def final_images(content: bytes) -> np.ndarray:
    """The finished samples of a stream, uint8 (N, C, H, W)."""
    found = answers(content)
    errors = [header["message"] for header, _ in found if header["event"] == "error"]
    assert not errors, errors
    begin = next(header for header, _ in found if header["event"] == "begin")
    images = np.zeros((begin["count"], *begin["shape"]), np.uint8)
    for header, blob in found:
        if header["event"] == "step" and header["index"] == header["total"] - 1:
            last = np.frombuffer(blob[: len(blob) // 2], np.uint8).reshape(-1, *begin["shape"])
            images[header["first"] : header["first"] + header["count"]] = last
    return images
