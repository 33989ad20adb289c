"""Requests that must be refused: other origins and names, traversal, huge, malformed and impossible values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

HOST = "127.0.0.1:7860"
OWN = {"origin": f"http://{HOST}"}
FORM = {**OWN, "content-type": "application/json"}


@dataclass(frozen=True)
class Hostile:
    """A request, and the codes with which it may be refused."""

    name: str
    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    codes: tuple[int, ...] = (403,)
    declared: bool = True  # whether a Content-Length is sent


def _post(name: str, path: str, values: object, codes: tuple[int, ...] = (400,)) -> Hostile:
    return Hostile(name, path, "POST", FORM, json.dumps(values).encode(), codes)


def _origins() -> Iterator[Hostile]:
    origins = [
        "http://evil.example",
        "https://127.0.0.1:7860",
        "null",
        "http://127.0.0.1:8080",
        "http://localhost:7860",
    ]
    origins += ["http://127.0.0.1:7860.evil.example", "file://", "http://127.0.0.1", "http://[::1]:7860"]
    for origin in origins:
        yield Hostile(f"get from {origin}", "/", headers={"origin": origin})
        yield Hostile(f"start from {origin}", "/api/start", "POST", {**FORM, "origin": origin}, b"{}")
    for site in ("cross-site", "same-site", "anything"):
        yield Hostile(f"fetched {site}", "/run/plain", headers={"sec-fetch-site": site})
    yield Hostile("no origin", "/api/run/plain/stop", "POST", {"content-type": "application/json"}, b"{}")
    yield Hostile("form of another page", "/api/start", "POST", {**OWN, "content-type": "text/plain"}, b"{}", (400,))
    for host in ("evil.example", "evil.example:7860", "127.0.0.1:80", "127.0.0.1", "", "localhost.evil.example:7860"):
        yield Hostile(f"host {host}", "/", headers={"host": host}, codes=(421,))
        yield Hostile(f"events for host {host}", "/api/events", headers={"host": host}, codes=(421,))
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        yield Hostile(method, "/run/plain", method, OWN, codes=(405,))
    yield Hostile("get of an action", "/api/run/plain/stop", codes=(404, 405))


def _paths() -> Iterator[Hostile]:
    names = ["..", "../plain", "..%2fplain", "%2e%2e", "plain/..", "/etc", "plain%00", "./plain", ".console", "secret"]
    names += ["~root", "C:%5Cwindows", "plain%2f..%2f..", "a" * 5000, "%ff%fe", "plain;ls", "$(ls)", "`ls`"]
    for name in names:
        yield Hostile(f"run {name[:20]}", f"/run/{name}/sample", codes=(404,))
    files = ["../labelled/log", "../../secret.txt", "%2e%2e/%2e%2e/secret.txt", "..%2f..%2fsecret.txt", "/etc/passwd"]
    files += ["%2fetc%2fpasswd", "model.safetensors", "state/000000003.safetensors", ".lock", "log/../../../secret.txt"]
    files += [
        "samples/..%5c..%5csecret.txt",
        "log%00.png",
        "link.png",
        "linked/secret.txt",
        "pipe.png",
        "",
        "samples",
        "x" * 300 + ".png",
    ]
    for name in files:
        yield Hostile(f"file {name[:30]}", f"/run/plain/files/{name}", codes=(400, 404))
    for name in ("..", "../labelled", "%2e%2e%2f%2e%2e", "linked", "clusters"):
        yield Hostile(f"report {name}", f"/run/plain/report/{name}", codes=(404,))
    for name in ("../app.py", "%2e%2e/app.py", "..%2f..%2fcli%2f__init__.py", "/etc/passwd"):
        yield Hostile(f"static {name}", f"/static/{name}", codes=(404,))


def _values() -> Iterator[Hostile]:
    sample = "/api/run/plain/sample"
    for name, values in {
        "too many": {"n": 10**9},
        "none": {"n": 0},
        "half": {"n": 1.5},
        "truth": {"n": True},
        "list": {"n": [1]},
        "huge seed": {"seed": 2**63},
        "digits": {"seed": "9" * 10_000},
        "negative": {"seed": -1},
        "steps": {"steps": 10**6},
        "nan": {"guidance": "nan"},
        "infinite": {"guidance": "inf"},
        "sampler": {"sampler": "../../x"},
        "code": {"sampler": "__import__('os')"},
        "control": {"label": "a\x1b[31m\nb"},
        "long label": {"label": "x" * 300},
        "option": {"sampler": "ddim", "option.eta": "1;ls"},
        "option name": {"sampler": "ddim", "option.__class__": "1"},
        "canvas": {"size": "99999x99999"},
        "no size": {"size": "0x0"},
        "no object": [1, 2, 3],
        "text": "sample",
        "null": None,
    }.items():
        yield _post(f"sample {name}", sample, values)
    yield Hostile("deep json", sample, "POST", FORM, b"[" * 30_000, (400,))
    yield Hostile("no json", sample, "POST", FORM, b"{", (400,))
    yield Hostile("not utf-8", sample, "POST", FORM, b'{"label": "\xff\xfe"}', (400,))
    yield Hostile("large form", sample, "POST", FORM, b" " * (65 << 10), (413,))
    yield Hostile("lying length", sample, "POST", {**FORM, "content-length": "-5"}, b"{}", (400, 413))
    for name in (
        "",
        "..",
        "../x",
        "a/b",
        ".hidden",
        "-x; rm -rf /",
        "a\\b",
        "x" * 100,
        "a b",
        "plain\n",
        "$(id)",
        "plain",
    ):
        yield _post(f"start as {name[:10]!r}", "/api/start", {"recipe": "digits", "data": "digits", "name": name})
    for data in (
        "/etc",
        "../secret",
        "~/x",
        "hub:evil/set",
        "http://evil.example/a.zip",
        "a b",
        "digits:../x",
        "--plugin",
    ):
        yield _post(f"train on {data}", "/api/start", {"recipe": "digits", "data": data, "name": "new"})
    for recipe in ("/etc/passwd", "../x.toml", "evil.toml", "--plugin=evil", ""):
        yield _post(f"recipe {recipe}", "/api/start", {"recipe": recipe, "data": "digits", "name": "new"})
    cluster = {"task": "cluster", "data": "digits", "name": "new"}
    for name, values in {
        "one cluster": {"clusters": 1},
        "words of clusters": {"clusters": "three"},
        "one image": {"images": 1},
        "epochs": {"budget": "epochs", "amount": 1},
        "no data": {"data": ""},
        "task": {"task": "delete"},
    }.items():
        yield _post(f"cluster {name}", "/api/start", cluster | values)
    yield _post("edit option", "/api/run/plain/edit", {"kind": "vary", "image": "log", "solver.__init__": "1"})
    for amount in ("-1", "nan", "1e999", "x"):
        values = {"recipe": "digits", "name": "new", "budget": "steps", "amount": amount}
        yield _post(f"budget {amount}", "/api/start", values)
    for image in ("../../secret.png", "/etc/passwd", "link.png", "recipe.toml.png", "", "samples.png\0"):
        values = {"kind": "vary", "image": image}
        yield _post(f"edit {image!r}", "/api/run/plain/edit", values, (400, 404))
    yield _post("edit kind", "/api/run/plain/edit", {"kind": "erase", "image": "samples.png"})
    yield _post("stop of nothing", "/api/run/plain/stop", {})
    yield Hostile("large image", "/api/run/plain/image/images", "POST", OWN, b"\x89PNG" + bytes(17 << 20), (413,))
    for name, path, size in (("form", sample, 65 << 10), ("image", "/api/run/plain/image/images", 17 << 20)):
        yield Hostile(f"{name} without end", path, "POST", FORM, b" " * size, (413,), declared=False)
    yield Hostile("other upload", "/api/run/plain/model/images", "POST", OWN, b"x", (404,))
    yield Hostile("empty image", "/api/run/plain/image/images", "POST", OWN, b"", (400,))
    yield Hostile("huge mask", "/api/run/plain/mask/images?height=99999&width=9", "POST", OWN, b"x", (400,))


def requests() -> list[Hostile]:
    """All of them."""
    return [*_origins(), *_paths(), *_values()]


def ask(app: Any, request: Hostile) -> tuple[int, dict[str, str], bytes]:
    """Code, headers and body of the answer; paths and headers arrive as they are, as from uvicorn."""
    path, _, query = request.path.partition("?")
    length = {"content-length": str(len(request.body))} if request.declared else {}
    headers = {"host": HOST} | length | request.headers
    scope = {
        "type": "http", "method": request.method, "path": unquote(path), "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 50000),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []
    blocks = [request.body[i : i + 65536] for i in range(0, len(request.body), 65536)] or [b""]

    async def receive() -> dict[str, Any]:
        if not blocks:
            return {"type": "http.disconnect"}
        block = blocks.pop(0)
        return {"type": "http.request", "body": block, "more_body": bool(blocks)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])
