"""The server computes what the command line computes; its streams, files and uploads."""

from __future__ import annotations

import io
import json
import shlex
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import ORIGIN, answers, final_images, fromnoise

from fromnoise.web.fields import Fields
from fromnoise.web.requests import EditRequest, SamplingRequest, sample_command
from fromnoise.web.training_requests import NewRunRequest


def post(client, path, **values):
    """Post JSON; the answer must be good."""
    answer = client.post(path, json=values, headers=ORIGIN)
    assert answer.status_code == 200, answer.text
    return answer


def run_command(command: str, out: Path) -> np.ndarray:
    """Run a command that a page shows, with another file for its images; the images."""
    words = shlex.split(command)
    assert words[0] == "fromnoise"
    words[words.index("--out") + 1] = str(out)
    fromnoise(*words[1:])
    return np.load(out)["images"]


@pytest.mark.parametrize(
    ("run", "values"),
    [
        ("plain", {"n": 3}),
        ("plain", {"n": 5, "sampler": "ddim", "steps": 3, "seed": 7}),
        ("plain", {"n": 3, "sampler": "ddim", "option.eta": "0.7", "steps": 3}),
        ("plain", {"n": 2, "sampler": "heun", "steps": 2, "size": "8x12"}),
        ("labelled", {"n": 4, "label": "3", "guidance": 2.0, "steps": 2}),
        ("labelled", {"n": 4, "label": "all", "steps": 2}),
    ],
)
def test_samples_are_those_of_the_command(client, run, values, tmp_path):
    """Pixel for pixel; the command is the one that the page shows."""
    content = post(client, f"/api/run/{run}/sample", **values).content
    command = answers(content)[0][0]["command"]
    assert np.array_equal(final_images(content), run_command(command, tmp_path / "a.npz"))


def test_saved_files_are_those_of_the_command(client, runs, tmp_path):
    """Byte for byte, also of samples that are not kept any more."""
    fields = {"n": "4", "seed": "11", "steps": "3"}
    words = sample_command(str(runs / "plain"), SamplingRequest.parse(Fields(fields)), str(tmp_path / "a.png"))
    fromnoise(*words, "--gif", tmp_path / "a.gif")
    for kind in ("png", "gif"):
        answer = client.get(f"/run/plain/samples.{kind}", params=fields)
        assert answer.content == (tmp_path / f"a.{kind}").read_bytes()
        assert "attachment" in answer.headers["content-disposition"]
    images = np.load(io.BytesIO(client.get("/run/plain/samples.npz", params=fields).content))["images"]
    assert images.shape == (4, 1, 8, 8)


def test_steps_stream_x_and_the_estimate(client):
    """A step is sent when it is done, with the times at which x_t and the estimate of x_0 were."""
    found = answers(post(client, "/api/run/plain/sample", n=2, steps=4, sampler="ddim").content)
    assert [header["event"] for header, _ in found] == ["command", "begin", *["step"] * 4, "end"]
    steps = [header for header, _ in found if header["event"] == "step"]
    assert [s["index"] for s in steps] == [0, 1, 2, 3] and steps[0]["t"] == 1 and steps[-1]["s"] == 0
    assert all(a["s"] == b["t"] for a, b in zip(steps, steps[1:], strict=False))
    assert all(len(blob) == 2 * 2 * 64 for header, blob in found if header["event"] == "step")


def test_forward_process_ends_at_the_samples(client):
    """The noised samples have the levels of their sampler, from noise to nearly the samples."""
    values = {"n": 2, "steps": 5, "sampler": "ddim", "seed": 3}
    images = final_images(post(client, "/api/run/plain/sample", **values).content).astype(int)
    found = answers(post(client, "/api/run/plain/forward", **values).content)
    noised = [np.frombuffer(blob[: len(blob) // 2], np.uint8).reshape(images.shape) for h, blob in found if blob]
    errors = [float(np.abs(images - x.astype(int)).mean()) for x in noised]
    assert len(errors) == 5 and errors[-1] < errors[0]


def test_describe(client):
    """What the forms offer."""
    offer = client.get("/api/run/labelled/describe").json()
    assert offer["shape"] == [1, 8, 8] and offer["classes"] == [str(k) for k in range(10)] and offer["guided"]
    assert "ddim" in [s["name"] for s in offer["samplers"]] and "mmps" in [s["name"] for s in offer["solvers"]]
    assert client.get("/api/run/labelled/describe").json() == offer  # kept
    assert not client.get("/api/run/plain/describe").json()["guided"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance": 2}, "labels"),
        ({"label": "3"}, "label"),
        ({"sampler": "nothing"}, "nothing"),
        ({"sampler": "ddim", "option.eta": "much"}, "eta"),
        ({"sampler": "ddim", "option.order": "2"}, "order"),
        ({"steps": 2000}, "steps"),
    ],
)
def test_mistakes_are_named(client, values, message):
    """As one line in the stream."""
    last, _ = answers(post(client, "/api/run/plain/sample", **{"n": 1, **values}).content)[-1]
    assert last["event"] == "error" and message in last["message"] and "\n" not in last["message"]


@pytest.fixture(scope="module")
def autoencoders(runs) -> None:
    """Runs of a variational autoencoder and of one for latents, with random weights."""
    from fromnoise import checkpoint, config
    from fromnoise.data.dataset_info import DatasetInfo
    from fromnoise.model import build_trainable

    for name in ("vae", "autoencoder"):
        recipe = config.load(name, {"data.source": "digits", "autoencoder.width": 8})
        model = build_trainable(recipe, DatasetInfo((1, 8, 8)))
        checkpoint.save_model(runs / name / "model.safetensors", model, model.module.state_dict(), {"step": 0})


def test_runs_of_autoencoders(client, autoencoders, tmp_path):
    """A variational one samples in one pass, as by the command; what needs diffusion says so."""
    content = post(client, "/api/run/vae/sample", n=3, seed=4).content
    assert np.array_equal(final_images(content), run_command(answers(content)[0][0]["command"], tmp_path / "a.npz"))
    assert client.get("/api/run/vae/describe").json()["generative"]
    assert not client.get("/api/run/autoencoder/describe").json()["generative"]
    for path, values, message in (
        ("vae/sample", {"steps": 3}, "steps"),
        ("vae/sample", {"label": "3"}, "label"),
        ("vae/forward", {}, "diffusion model"),
        ("vae/rate", {}, "diffusion model"),
        ("autoencoder/sample", {}, "fromnoise train latent"),
    ):
        last, _ = answers(post(client, f"/api/run/{path}", n=2, **values).content)[-1]
        assert last["event"] == "error" and message in last["message"], path
    for name in ("vae", "autoencoder"):
        for page in ("", "/sample", "/edit", "/understand"):
            assert client.get(f"/run/{name}{page}").status_code == 200


def test_nearest_training_images(client):
    """One for each sample."""
    found = answers(post(client, "/api/run/plain/nearest", n=3, steps=2).content)
    header, blob = found[-1]
    assert header["count"] == 3 and len(blob) == 3 * 64


# ---- edits


def png(array: np.ndarray) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def stored(client) -> dict[str, str]:
    """An image, another one and a mask, in the run."""
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    upload = "/api/run/plain/image/images?fit=true"
    image = client.post(upload, content=png(rng.integers(0, 256, (20, 30, 3), np.uint8)), headers=ORIGIN).json()
    other = client.post(upload, content=png(rng.integers(0, 256, (8, 8), np.uint8)), headers=ORIGIN).json()
    painted = client.post("/api/run/plain/mask/images?height=8&width=8", content=png(mask), headers=ORIGIN).json()
    assert image["shape"] == other["shape"] == [1, 8, 8]
    return {"image": image["name"], "to": other["name"], "mask": painted["name"]}


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "inpaint", "n": 2},
        {"kind": "inpaint", "n": 2, "method": "repaint", "solver.resamplings": "2"},
        {"kind": "vary", "n": 3, "depth": 0.6},
        {"kind": "outpaint", "n": 1, "size": "12x12"},
        {"kind": "restore", "n": 2, "restore": "deblur", "factor": 1.5, "solver.noise_std": "0.1"},
        {"kind": "restore", "n": 1, "restore": "upscale", "factor": 2},
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_edit_is_that_of_its_command(client, stored, values, tmp_path):
    """Pixel for pixel."""
    content = post(client, "/api/run/plain/edit", **stored, **values, steps=3, sampler="ddim", seed=5).content
    out = run_command(answers(content)[0][0]["command"], tmp_path / "a.npz")
    images = final_images(content)
    assert np.array_equal(images, out)
    if values["kind"] == "inpaint":
        assert len(np.unique(images[:, :, 0, 0])) == 1  # known pixels are kept


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "repaint", "solver.resamplings": "0"}, "resamplings"),
        ({"method": "repaint", "solver.resamplings": "2.5"}, "resamplings"),
        ({"method": "pigdm", "solver.iterations": "3"}, "iterations"),
        ({"method": "nothing"}, "nothing"),
        ({"solver.noise_std": "much"}, "noise_std"),
    ],
)
def test_mistakes_of_an_inverse_solver_are_named(client, stored, values, message):
    """As one line, with the option."""
    content = post(client, "/api/run/plain/edit", kind="inpaint", n=1, **stored, **values).content
    last, _ = answers(content)[-1]
    assert last["event"] == "error" and message in last["message"] and "\n" not in last["message"]


def test_interpolation_is_that_of_its_command(client, stored, runs, tmp_path):
    """The grid that the command writes."""
    values = {"kind": "interpolate", **stored, "points": 4, "depth": 0.4, "steps": 3, "sampler": "ddim"}
    content = post(client, "/api/run/plain/edit", **values).content
    words = shlex.split(answers(content)[0][0]["command"])
    words[words.index("--out") + 1] = str(tmp_path / "a.png")
    fromnoise(*words[1:])
    sheet = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    images = final_images(content)[:, 0].repeat(8, 1).repeat(8, 2)
    assert sheet.shape == (64, 4 * 64 + 3 * 2)
    assert all(np.array_equal(sheet[:, 66 * i : 66 * i + 64], images[i]) for i in range(4))


def test_samples_are_kept_for_edits(client, runs):
    """A sample becomes a file of the run, once."""
    names = [post(client, "/api/run/plain/keep", n=2, steps=2, index=1).json()["name"] for _ in range(2)]
    assert names[0] == names[1] and (runs / "plain" / names[0]).is_file()
    assert client.get(f"/run/plain/files/{names[0]}").content == (runs / "plain" / names[0]).read_bytes()


def _bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in 110 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = 30_000
    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes(side + 1) * 300, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        _bomb(),
        b"GIF89a" + b"\xff" * 500,
        b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(owned) (w) file",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<script>alert(1)</script>",
        b"PK\x03\x04" + bytes(200),
        png(np.zeros((8, 8), np.uint8))[:45],
        b"MZ\x90\x00" + bytes(100),
    ],
    ids=["bomb", "gif", "pickle", "postscript", "svg", "html", "zip", "truncated", "program"],
)
def test_uploads_that_are_no_images(client, runs, content):
    """Are refused in one line; no file of them is left, and none is executed."""
    before = sorted(p.name for p in (runs / "plain").rglob("*") if p.is_file())
    answer = client.post("/api/run/plain/image/images", content=content, headers=ORIGIN)
    error = answer.json()["error"]
    assert answer.status_code == 400 and "\n" not in error and str(runs) not in error
    assert sorted(p.name for p in (runs / "plain").rglob("*") if p.is_file()) == before


def test_uploads_are_limited_in_number(client, runs, stored, monkeypatch, tmp_path):
    """A folder that is full takes no more."""
    folder = runs / "labelled" / "edits"
    folder.mkdir(exist_ok=True)
    for i in range(500):
        (folder / f"image-{i}.png").touch()
    image = png(np.zeros((8, 8), np.uint8))
    answer = client.post("/api/run/labelled/image/images", content=image, headers=ORIGIN)
    assert answer.status_code == 400 and "500" in answer.json()["error"]


# ---- forms


def test_choices(client):
    """Recipes and named data sets."""
    found = client.get("/api/choices").json()
    assert "digits" in found["data"] and {"name", "about", "cost", "quality"} <= found["recipes"][0].keys()


def test_inspection_is_that_of_doctor_and_dry_run(client):
    """The same lines and problems as the commands print."""
    found = {}
    for header, content in answers(post(client, "/api/inspect", recipe="digits", data="digits", name="x").content):
        found[header["event"]] = (header, content)
    assert found["data"][0]["all"] == 10 and len(found["data"][1]) == found["data"][0]["count"] * 64
    lines = found["cost"][0]["lines"]
    assert any("trainable parameters" in line for line in lines) and any("600 steps" in line for line in lines)
    printed = fromnoise("doctor", "digits")
    assert all(finding["problem"] in printed for finding in found["findings"][0]["findings"])
    assert found["command"][0]["command"].startswith("fromnoise train digits --data digits")


def test_commands_are_understood():
    """Every command that a request becomes parses, and says the same."""
    from fromnoise.cli import parser

    stored = {"image": "edits/a.png", "mask": "edits/b.png", "to": "edits/c.png"}
    sampling = {"n": 3, "seed": 5, "sampler": "ddim", "steps": 7, "label": "-1", "guidance": 1.5, "size": "8x12"}
    lines = [sample_command("runs/a b", SamplingRequest.parse(Fields(sampling)))]
    for kind in ("inpaint", "outpaint", "vary", "restore", "interpolate"):
        lines.append(EditRequest.parse(Fields({"kind": kind, **stored, **sampling})).command(Path("runs/a b")))
    train = {"recipe": "digits", "data": "digits", "budget": "minutes", "amount": "2.5", "labels": True}
    words = NewRunRequest.parse(Fields(train), {}).command(Path("runs/x"))
    cluster = {"task": "cluster", "data": "digits", "clusters": "3", "images": 60, "budget": "steps", "amount": "1e6"}
    wanted = NewRunRequest.parse(Fields(cluster), {})
    lines.append(wanted.command(Path("runs/x")))
    found = wanted.overrides()
    assert (found["clustering.count"], found["clustering.images"], found["train.steps"]) == (3, 60, 1_000_000)
    lines.append([w for w in words if w not in ("--data.labels", "true")])
    for words in lines:
        top, _ = parser(words[0])
        args = top.parse_args(words)
        if words[0] == "sample":
            assert (args.count, args.seed, args.label, args.guidance, args.size) == (3, 5, "-1", 1.5, "8x12")


def test_options_of_every_component_are_flags():
    """Of samplers and inverse solvers, so that the command which a page shows is understood."""
    from fromnoise import registry
    from fromnoise.cli import parser

    _, parsers = parser("sample")
    for name in registry.names("sampler"):
        for option in registry.options("sampler", name):
            fields = Fields({"sampler": name, f"option.{option}": "1"})
            flag = sample_command("a", SamplingRequest.parse(fields))[6]
            assert flag == f"--{option.replace('_', '-')}=1" and flag.split("=")[0] in parsers["sample"].flags()
    top, _ = parser("edit")
    for name in registry.names("inverse_solver"):
        for option in registry.options("inverse_solver", name):
            fields = {"kind": "restore", "image": "a.png", "method": name, f"solver.{option}": "1"}
            args = top.parse_args(EditRequest.parse(Fields(fields)).command(Path("a")))
            assert args.method == name and getattr(args, f"inverse_solver_{option}") == 1


def test_broken_model_is_named(client, runs):
    """The page of a run without a usable model says so."""
    run = runs / "broken"
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"\x00" * 100)
    answer = client.get("/api/run/broken/describe")
    assert answer.status_code == 400 and "broken" in answer.json()["error"]
    assert json.loads(answer.text).keys() == {"error"}
