"""A stand-in of the hub's HTTP interface on loopback, as far as huggingface_hub uses it to create, write and read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"


@dataclass
class Repository:
    """Commits of a repository, the last one first in ``main``."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files; the commit's name."""
        held = self.commits.get(self.main, {}) | files
        digest = hashlib.sha1(repr((self.main, sorted(held))).encode() + b"".join(held.values())).hexdigest()
        self.commits[digest], self.main = held, digest
        return digest

    def find(self, revision: str) -> str | None:
        """The commit of a revision."""
        return self.main if revision == "main" else revision if revision in self.commits else None


class Hub:
    """The server and what it holds."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _tree(files: dict[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders of a folder, as the hub lists them."""
    prefix = f"{below}/" if below else ""
    inside = {f: c for f, c in files.items() if f.startswith(prefix)}
    parents = {f[: i + len(prefix)] for f in inside for i, c in enumerate(f[len(prefix) :]) if c == "/"}
    folders = [{"type": "directory", "path": f, "size": 0, "oid": "0"} for f in sorted(parents)]
    entries = folders + [_entry(f, c) for f, c in inside.items()]
    return [e for e in entries if recursive or "/" not in e["path"][len(prefix) :]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.hub.objects[self._path().rsplit("/", 1)[1]] = self._body()
        self._answer(200, {})

    def do_GET(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (commit := self._commit(found[1], found[2] or "main")) is not None:
                files = self.hub.repositories[found[1]].commits[commit]
                self._answer(200, {"id": found[1], "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        elif found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            if (commit := self._commit(found[1], found[2])) is not None:
                files = self.hub.repositories[found[1]].commits[commit]
                self._answer(200, _tree(files, found[3] or "", "recursive=true" in self.path.lower()))
        elif found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (commit := self._commit(found[1], found[2])) is not None:
                content = self.hub.repositories[found[1]].commits[commit].get(found[3])
                if content is None:
                    self._fail(404, "EntryNotFound")
                    return
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
                part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
                if part:
                    content = content[int(part[1]) : int(part[2]) + 1]
                self._answer(206 if part else 200, content, headers)
        else:
            self._fail(404, "")

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            if (commit := self._commit(found[1], found[2])) is not None:
                files = self.hub.repositories[found[1]].commits[commit]
                wanted = {unquote(word) for word in re.findall(r"paths=([^&]+)", body.decode())}
                self._answer(200, [_entry(f, c) for f, c in files.items() if f in wanted])
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [o | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}} for o in objects]
            self._answer(200, {"transfer": "basic", "objects": actions})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "")
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] != "me":
                self._fail(403, "")
            elif name in self.hub.repositories:
                self._answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
            else:
                private = wanted.get("private") or wanted.get("visibility") == "private"
                self.hub.repositories[name] = Repository(bool(private))
                self.hub.repositories[name].commit({".gitattributes": b""})
                self._answer(200, {"url": f"{self.hub.url}/{name}"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            files: dict[str, bytes] = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
            commit = self.hub.repositories[found[1]].commit(files)
            url = f"{self.hub.url}/{found[1]}/commit/{commit}"
            self._answer(200, {"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self._fail(404, "")

    def _commit(self, name: str, revision: str) -> str | None:
        """A commit that the caller may see; otherwise the answer is given."""
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._fail(404 if known else 401, "RepoNotFound")
            return None
        commit = repository.find(revision)
        if commit is None:
            self._fail(404, "RevisionNotFound")
        return commit

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, {"error": code or str(status)}, {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
