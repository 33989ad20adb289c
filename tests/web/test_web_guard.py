"""Hostile requests are refused, and nothing outside of the named folders is read or written."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hostile import Hostile, ask, requests
from starlette.testclient import TestClient

from fromnoise.web.app import create_app, create_site
from fromnoise.web.guard import Guard
from fromnoise.web.settings import Settings

SECRET = "the content of a file that nobody named"
REQUESTS = requests()


def create_app_of(settings: Settings) -> Guard:
    """The application with these settings."""
    return create_app(create_site(settings))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its time and size."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of runs that tries to lead out of itself, and a secret beside it."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "secret.txt").write_text(SECRET)
    (root / "secret").mkdir()
    (root / "secret" / "recipe.toml").write_text(f'name = "{SECRET}"')
    (root / "secret" / "secret.txt").write_text(SECRET)
    (root / "secret" / "report.html").write_text(SECRET)
    for name in ("plain", "labelled"):
        run = root / "runs" / name
        (run / "samples").mkdir(parents=True)
        (run / "state").mkdir()
        (run / "recipe.toml").write_text('name = "plain"')
        for file in ("log", "model.safetensors", "state/000000003.safetensors", ".lock"):
            (run / file).write_text(SECRET)
    plain = root / "runs" / "plain"
    (plain / "link.png").symlink_to(root / "secret.txt")
    (plain / "linked").symlink_to(root / "secret")
    os.mkfifo(plain / "pipe.png")
    (root / "runs" / "secret").symlink_to(root / "secret")
    return root


@pytest.fixture(scope="module")
def guarded(place) -> TestClient:
    """A client of a server of that folder, whose computing process cannot be started by a refused request."""
    return TestClient(
        create_app_of(Settings(place / "runs")), base_url="http://127.0.0.1:7860", raise_server_exceptions=False
    )


def test_there_are_a_hundred():
    """As promised."""
    assert len(REQUESTS) >= 100 and len({r.name for r in REQUESTS}) == len(REQUESTS)


@pytest.mark.parametrize("hostile", REQUESTS, ids=lambda r: r.name)
def test_hostile_request_is_refused(hostile, guarded, place):
    """By its code, in few words, without the secret; nothing on the disk changes."""
    before = tree(place)
    status, headers, body = ask(guarded.app, hostile)
    assert status in hostile.codes, (status, body[:300])
    assert SECRET.encode() not in body
    assert "access-control-allow-origin" not in headers
    assert tree(place) == before


def test_answers_carry_the_headers(guarded):
    """Each answer forbids frames, foreign scripts and guesses of its type; a refused one too."""
    for path in ("/", "/nothing", "/static/page.js"):
        headers = guarded.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert guarded.get("/", headers={"origin": "http://evil.example"}).headers["x-frame-options"] == "DENY"


def test_linked_runs_are_not_listed(guarded):
    """A link in the folder of runs that leads out of it is no run."""
    page = guarded.get("/").text
    assert "plain" in page and "secret" not in page


def test_pages_have_no_inline_scripts_or_styles(guarded):
    """So that the policy can forbid both."""
    for path in ("/", "/new", "/compare?run=plain", "/run/plain", "/run/plain/sample", "/run/plain/edit"):
        page = guarded.get(path).text
        assert "<style" not in page and " style=" not in page and "javascript:" not in page and " onclick" not in page
        assert page.count("<script") == page.count('<script type="module" src="/static/')
        assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_names_are_escaped(tmp_path):
    """Of runs, recipes and data."""
    attack = '"><img src=x onerror=alert(1)>'
    run = tmp_path / "runs" / attack
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(f"name = '{attack}'\n[data]\nsource = '{attack}'\n")
    (run / "log").write_text("<script>alert(1)</script>\n")
    client = TestClient(create_app_of(Settings(tmp_path / "runs")), base_url="http://127.0.0.1:7860")
    name = f"/run/{quote(attack)}"
    for path in ("/", f"/compare?run={name[5:]}", name, f"{name}/sample", f"{name}/edit"):
        page = client.get(path)
        assert page.status_code == 200 and "<img src=x" not in page.text and "<script>" not in page.text


def test_reports_cannot_run_scripts(tmp_path):
    """Those of others are shown in a sandbox."""
    run = tmp_path / "runs" / "a"
    (run / "evaluation-1").mkdir(parents=True)
    (run / "recipe.toml").write_text("name = 'a'")
    (run / "evaluation-1" / "report.html").write_text("<script>alert(1)</script>")
    client = TestClient(create_app_of(Settings(tmp_path / "runs")), base_url="http://127.0.0.1:7860")
    policy = client.get("/run/a/report/evaluation-1").headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'") and "script-src" not in policy and "allow-" not in policy


def test_token(place):
    """Without it nothing is served; its address stores it as a cookie of this site alone."""
    settings = Settings(place / "runs", host="192.0.2.7", token="t" * 32)
    client = TestClient(create_app_of(settings), base_url="http://192.0.2.7:7860", follow_redirects=False)
    for path in ("/", "/static/page.js", "/api/events", "/?token=wrong", "/?token="):
        assert client.get(path).status_code == 401
    assert client.get("/", headers={"cookie": "fromnoise-7860=wrong"}).status_code == 401
    own = {"host": "192.0.2.7:7860"}
    status, headers, _ = ask(client.app, Hostile("", "//evil.example/?a=1&token=" + "t" * 32, headers=own))
    assert status == 303 and headers["location"] == "/evil.example/?a=1"
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "t" * 32 in cookie
    assert client.get("/?token=" + "t" * 32).status_code == 303
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "127.0.0.1:7860"}).status_code == 421


@pytest.mark.parametrize(
    ("host", "name", "served"),
    [
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "[::1]", False),
        ("0.0.0.0", "192.0.2.7:7860", True),
        ("0.0.0.0", "evil.example:7860", False),
        ("192.0.2.7", "192.0.2.8:7860", False),
    ],
)
def test_names_of_the_server(place, host, name, served):
    """A name that another page could have rebound is refused; numbers are not names."""
    settings = Settings(place / "runs", host=host)
    client = TestClient(create_app_of(settings), base_url="http://127.0.0.1:7860")
    assert client.get("/", headers={"host": name}).status_code == (200 if served else 421)


def test_demo_has_no_other_pages(place):
    """Of one run only its samples; nothing is written or started."""
    client = TestClient(
        create_app_of(Settings(place / "runs", demo="plain")), base_url="http://127.0.0.1:7860", follow_redirects=False
    )
    assert client.get("/").headers["location"] == "/run/plain/sample"
    page = client.get("/run/plain/sample")
    assert page.status_code == 200 and "nearest" not in page.text and "Edit sample" not in page.text
    for path in ("/new", "/compare", "/run/plain", "/run/plain/edit", "/run/plain/files/log", "/run/labelled/sample"):
        assert client.get(path).status_code == 404
    for path in ("/api/start", "/api/run/plain/stop", "/api/run/plain/keep", "/api/run/plain/image/images"):
        assert client.post(path, headers={"origin": "http://127.0.0.1:7860"}, json={}).status_code == 404


def test_port_80_is_left_out_by_browsers(place):
    """Of the Host and of the Origin."""
    client = TestClient(create_app_of(Settings(place / "runs", port=80)), base_url="http://127.0.0.1")
    for host, code in (("127.0.0.1", 200), ("[::1]", 200), ("127.0.0.1:81", 421), ("evil.example", 421)):
        assert client.get("/", headers={"host": host}).status_code == code


def test_public_demonstration(place):
    """By its name everybody may visit it and frame it; other names and other sites' requests are refused still."""
    settings = Settings(place / "runs", host="0.0.0.0", demo="plain", public="me-digits.hf.space")
    client = TestClient(create_app_of(settings), base_url="http://me-digits.hf.space")
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    page = client.get("/run/plain/sample", headers=visit)
    assert page.status_code == 200 and "frame-ancestors *" in page.headers["content-security-policy"]
    assert "x-frame-options" not in page.headers
    assert client.get("/run/plain/sample", headers={"host": "evil.example"}).status_code == 421
    asked = {"json": {"n": 0}, "headers": {"origin": "https://me-digits.hf.space"}}
    assert client.post("/api/run/plain/sample", **asked).status_code == 400
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}):
        assert client.post("/api/run/plain/sample", json={"n": 0}, headers=headers).status_code == 403
    assert client.get("/new", headers=visit).status_code == 404


def test_requests_to_a_demonstration_are_smaller(place):
    """Visitors share a machine: fewer samples, steps and pixels, and not many at a time."""
    site = create_site(Settings(place / "runs", demo="plain"))
    client = TestClient(create_app(site), base_url="http://127.0.0.1:7860")
    for values in ({"n": 65}, {"steps": 251}, {"size": "129"}):
        for path in ("sample", "forward"):
            asked = {"json": values, "headers": {"origin": "http://127.0.0.1:7860"}}
            assert client.post(f"/api/run/plain/{path}", **asked).status_code == 400
        assert client.get("/run/plain/samples.png", params=values).status_code == 400
    site.sampling._jobs = dict.fromkeys(range(8))  # pyright: ignore[reportAttributeAccessIssue]
    answer = client.post("/api/run/plain/sample", json={"n": 1}, headers={"origin": "http://127.0.0.1:7860"})
    assert answer.status_code == 400 and "visitors" in answer.json()["error"]
