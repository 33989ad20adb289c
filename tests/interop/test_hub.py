"""The hub: push, load and import against a stand-in on loopback; no other address is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from hub_server import TOKEN, Hub, Repository
from huggingface_hub import ModelCard, constants, hf_api
from safetensors import safe_open
from tiny_diffusers import random_unet, save_folder

import fromnoise as fn
from fromnoise import cli, interop
from fromnoise.checkpoint import load_model
from fromnoise.config import change
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.interop.publish import repository_files
from fromnoise.model import Model, recipe_of
from fromnoise.utils.errors import UserError
from fromnoise.utils.hub import HubName

NAME = HubName("me/squares")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with a token and a cache of its own."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.chdir(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on a user's own images, with an evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "squares"
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    values: dict[str, Any] = {"network__width": 8, "network__groups": 4, "sample__steps": 3, "sample__count": 0}
    values |= {"train__previews": 0, "train__evaluations": 1, "train__warmup": 0}
    fn.Trainer("digits", images, steps=3, batch=4, out=folder, device="cpu", progress=False, **values).run()
    number = {
        "value": 1.5,
        "error": 0.1,
        "n": 40,
        "real_vs_real": 0.5,
        "real_vs_real_error": 0.05,
        "real_vs_real_n": 40,
        "features": "pixels",
    }
    report = {"command": "fromnoise evaluate", "against": "/home/me/faces", "features": "pixels"}
    (folder / "evaluation-2").mkdir()
    report["evaluations"] = [{"name": "runs/squares", "n": 40, "frechet": number, "findings": []}]  # pyright: ignore[reportArgumentType]
    (folder / "evaluation-2" / "report.json").write_text(json.dumps(report))
    return folder


def fails(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fromnoise:")]
    return line


def test_push_and_load(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same samples from the hub; a second push is a second commit, and the first is still there."""
    assert cli.main(["push", str(run), "me/squares", "--license", "mit", "-n", "4"]) == 0
    first = hub.repositories["me/squares"].main
    assert first in capsys.readouterr().out and any(request.startswith("PUT /lfs/") for request in hub.requests)
    model, own = fn.load("hub:me/squares", device="cpu"), fn.load(run, device="cpu")
    assert torch.equal(model.sample(2, seed=3), own.sample(2, seed=3))
    assert cli.main(["sample", f"hub:me/squares@{first}", "-n", "2", "--steps", "2"]) == 0
    assert (tmp_path / "sampled-0.png").exists()  # not in the cache
    second = fn.push(run, "me/squares", samples=0)
    assert second == f"{hub.url}/me/squares/commit/{hub.repositories['me/squares'].main}" and first not in second
    assert len(hub.repositories["me/squares"].commits) == 3  # with that of its creation


def test_every_verb_takes_it(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verbs that name a run, and what they say of its data, which are not published."""
    hub.repositories["me/squares"] = Repository()
    hub.repositories["me/squares"].commit(repository_files(load_model(run), NAME, samples=0))
    assert cli.main(["export", "hub:me/squares", "--to", "safetensors", "--out", "w.safetensors"]) == 0
    assert cli.main(["show", "progressive", "hub:me/squares", "-n", "2", "--out", "p.png"]) == 0
    assert "does not record its training data" in fails("evaluate", "hub:me/squares", capsys=capsys)
    assert "names no data" in fails("bits", "hub:me/squares", capsys=capsys)
    assert cli.main(["doctor", "hub:me/squares", "-n", "0"]) == 0


def test_private(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the token."""
    assert cli.main(["push", str(run), "me/secret", "--private", "-n", "0"]) == 0
    assert hub.repositories["me/secret"].private and fn.load("hub:me/secret").shape == (1, 8, 8)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("other").absolute()))
    assert "private" in fails("sample", "hub:me/secret", capsys=capsys)
    assert "needs a token" in fails("push", str(run), "me/secret", capsys=capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not know the token" in fails("push", str(run), "me/secret", "-n", "0", capsys=capsys)


def test_mistakes_are_one_line(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, revisions, repositories of others and licences."""
    for name in ("hub:", "hub:squares", "hub:me/squares@", "hub:me/../etc", "hub:me/a/b", "hub:me/ä", "hub:me/s@.."):
        assert "write hub:owner/name" in fails("sample", name, capsys=capsys)
    assert hub.requests == []
    assert "no such model repository" in fails("sample", "hub:me/nothing", capsys=capsys)
    hub.repositories["me/empty"] = Repository()
    hub.repositories["me/empty"].commit({"README.md": b"# empty"})
    assert "no recipe.toml of fromnoise" in fails("sample", "hub:me/empty", capsys=capsys)
    assert "no revision v9" in fails("sample", "hub:me/empty@v9", capsys=capsys)
    assert "not a model that can be imported" in fails("import", "hub:me/empty", "--out", "x", capsys=capsys)
    assert "may write to you" in fails("push", str(run), "you/squares", "-n", "0", capsys=capsys)
    assert "identifier of the hub" in fails("push", str(run), "me/squares", "--license", "My own", capsys=capsys)
    assert "no run directory or model file" in fails("push", "nothing", "me/squares", capsys=capsys)


def test_without_a_network(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """What is in the cache is used; the rest is one line."""
    hub.repositories["me/squares"] = Repository()
    hub.repositories["me/squares"].commit(repository_files(load_model(run), NAME, samples=0))
    once = fn.load("hub:me/squares").sample(1)
    hub.close()
    assert torch.equal(fn.load("hub:me/squares").sample(1), once)
    assert "cannot be reached" in fails("sample", "hub:me/other", capsys=capsys)
    assert "cannot be reached" in fails("push", str(run), "me/other", "-n", "0", capsys=capsys)


def test_the_card(hub: Hub, run: Path, tmp_path: Path) -> None:
    """What the run holds and nothing else: no licence, no metric and no path that nobody stated."""
    assert cli.main(["push", str(run), "me/squares", "-n", "4", "--out", "folder"]) == 0
    card = ModelCard.load(tmp_path / "folder" / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert data["library_name"] == "fromnoise" and data["pipeline_tag"] == "unconditional-image-generation"
    assert "license" not in data and "datasets" not in data
    assert "a classifier has a confidence" not in card.text and "Against files of the owner" in card.text
    assert "| frechet | 1.5 ± 0.1 | 0.5 ± 0.05 | 40 | pixels |" in card.text
    assert "![4 samples" in card.text and (tmp_path / "folder" / "samples.png").stat().st_size > 100
    assert "held-out loss" in card.text and "none is stated" in card.text and 'fn.load("hub:me/squares")' in card.text
    assert load_model(run).model.dataset_info.fingerprint in card.text
    with safe_open(tmp_path / "folder" / "model.safetensors", "pt") as file:
        spec = file.metadata()
    assert spec["modelspec.sai_model_spec"] == "1.0.1" and spec["modelspec.resolution"] == "8x8"
    assert {f"modelspec.{key}" for key in ("architecture", "implementation", "title", "prediction_type")} <= set(spec)
    assert torch.equal(fn.load(tmp_path / "folder").sample(2), fn.load(run).sample(2))


def test_paths_of_the_owner_are_not_published(run: Path, tmp_path: Path) -> None:
    """In the recipe, the header and the card; the name of a data set is kept."""
    loaded = load_model(run)
    for source, kept in (("/home/me/faces", ""), ("mnist:test", "mnist:test"), ("hub:a/b:train", "hub:a/b:train")):
        data = loaded.model.recipe.data.model_copy(update={"source": source})
        recipe = loaded.model.recipe.model_copy(update={"data": data})
        model = type(loaded.model)(recipe, loaded.model.dataset_info, loaded.model.denoiser)
        fn.Pipeline(model, device="cpu").save(tmp_path / "m.safetensors")
        files = repository_files(load_model(tmp_path / "m.safetensors"), NAME, samples=0)
        assert not any(b"/home/me" in content for content in files.values())
        (tmp_path / "again.safetensors").write_bytes(files["model.safetensors"])
        assert load_model(tmp_path / "again.safetensors").model.recipe.data.source == kept
        assert (b'datasets:\n- "a/b"' in files["README.md"]) == (kept == "hub:a/b:train")
    assert b"/home/me" not in repository_files(loaded, NAME, samples=0)["README.md"]  # of its evaluation


def test_conditional_models_have_no_pipeline_tag(tmp_path: Path) -> None:
    """The hub's task has no classes."""
    network = fn.networks.UNet(1, 1, size=(8, 8), classes=2, width=8)
    denoiser = fn.Denoiser(network, fn.schedules.linear(20), fn.targets.Eps())
    fn.Pipeline(denoiser, (1, 8, 8), class_names=("a", 'b: "c"'), device="cpu").save(tmp_path / "m.safetensors")
    readme = repository_files(load_model(tmp_path / "m.safetensors", network), NAME, samples=2)["README.md"].decode()
    assert "pipeline_tag" not in readme and "class-conditional" in readme and "classes: 2 (a, b" in readme
    assert "the model was imported, or saved without its run" in readme


@pytest.mark.slow
def test_diffusers_opens_an_export_from_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pipeline and the network that the repository carries, where fromnoise cannot be imported."""
    network = fn.networks.UNet(1, 1, size=(6, 6), classes=2, width=8, patch=2, multipliers=(1, 2))
    denoiser = fn.Denoiser(network, fn.schedules.linear(20), fn.targets.Eps())
    recipe = change(recipe_of(denoiser, DatasetInfo((1, 6, 6), ("a", "b"))), {"network": {"kind": "unet"}})
    options = {"width": 8, "patch": 2, "multipliers": [1, 2]}
    recipe = change(recipe, {f"network.{key}": value for key, value in options.items()})
    interop.export_model(Model(recipe, DatasetInfo((1, 6, 6), ("a", "b")), denoiser), tmp_path / "out", "diffusers")
    files = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    hub.repositories["me/out"] = Repository()
    hub.repositories["me/out"].commit(files)
    modules = tmp_path / "modules"
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # diffusers has taken its methods
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "fromnoise"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fromnoise", None)  # it cannot be imported
    with pytest.raises(ImportError):
        import_module("fromnoise.diffusion")
    pipeline = DiffusionPipeline.from_pretrained("me/out", trust_remote_code=True)
    assert pipeline(class_labels="b", num_inference_steps=2).images[0].size == (6, 6)
    assert list(modules.rglob("pipeline.py"))


@pytest.fixture
def diffusers_files(tmp_path: Path) -> dict[str, bytes]:
    """A pipeline's files."""
    folder = save_folder(tmp_path / "theirs", random_unet(), DDPMScheduler(clip_sample=True))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_import_of_a_diffusers_repository(hub: Hub, diffusers_files: dict[str, bytes]) -> None:
    """By the verb and by load; other variants of the weights are not downloaded."""
    repository = hub.repositories["them/ddpm"] = Repository()
    repository.commit(diffusers_files | {"unet/diffusion_pytorch_model.fp16.safetensors": b"x", "big.ckpt": b"x"})
    assert cli.main(["import", "hub:them/ddpm", "--out", "run"]) == 0
    ours = interop.import_model(Path("theirs")).model.denoiser.state_dict()
    for model in (fn.load("run"), fn.load("hub:them/ddpm")):
        assert all(torch.equal(value, ours[name]) for name, value in model.denoiser.state_dict().items())
    assert not any("fp16" in request or "big" in request for request in hub.requests)


def test_a_refused_repository_is_not_downloaded(hub: Hub, diffusers_files: dict[str, bytes]) -> None:
    """Its weights stay where they are."""
    index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    hub.repositories["them/sd"] = Repository()
    hub.repositories["them/sd"].commit(diffusers_files | {"model_index.json": json.dumps(index).encode()})
    with pytest.raises(UserError, match="hub:them/sd is a pipeline with vae"):
        fn.load("hub:them/sd")
    vae = {"vae/config.json": b'{"_class_name": "AutoencoderKL"}', "vae/diffusion_pytorch_model.safetensors": b"x"}
    hub.repositories["them/ldm"] = Repository()
    hub.repositories["them/ldm"].commit(diffusers_files | vae)
    with pytest.raises(UserError, match="use load_autoencoder"):
        fn.load("hub:them/ldm")
    assert not any(request.endswith(".safetensors") for request in hub.requests)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("several", [False, True])
def test_weights_in_several_files_and_pickles(
    kind: str, several: bool, hub: Hub, diffusers_files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pickles are read by the verb alone, after the sentence; an index names the files."""
    folder = Path("theirs", "unet")
    ours = interop.import_model(Path("theirs")).model.denoiser.state_dict()
    weights = {name.removeprefix("network."): value for name, value in ours.items()}
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names, stem = sorted(weights), "diffusion_pytorch_model"
    parts = [names[: len(names) // 2], names[len(names) // 2 :]] if several else [names]
    places = {}
    for i, part in enumerate(parts):
        file = f"{stem}-0000{i + 1}-of-00002.{kind}" if several else f"{stem}.{kind}"
        places |= dict.fromkeys(part, file)
        tensors = {name: weights[name].contiguous() for name in part}
        if kind == "bin":
            torch.save(tensors, folder / file)
        else:
            from safetensors.torch import save_file

            save_file(tensors, folder / file)
    if several:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    hub.repositories["them/ddpm"] = Repository()
    files = {p.relative_to("theirs").as_posix(): p.read_bytes() for p in Path("theirs").rglob("*") if p.is_file()}
    hub.repositories["them/ddpm"].commit(files)
    for number, source in enumerate(("theirs", "hub:them/ddpm")):
        capsys.readouterr()
        assert cli.main(["import", source, "--out", f"run{number}"]) == 0
        assert ("weights_only=True" in capsys.readouterr().out) == (kind == "bin")
        read = fn.load(f"run{number}").denoiser.state_dict()
        assert all(torch.equal(read[name], value) for name, value in ours.items())
        if kind == "bin":
            with pytest.raises(UserError, match="fromnoise import alone"):
                fn.load(source)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": "../../secret.safetensors"}}, "no name of a file of weights"),
        ({"weight_map": {"a": 3}}, "no name of a file of weights"),
        ({"weight_map": {"a": "diffusion_pytorch_model.bin"}}, "another kind"),
        ({"weight_map": {"a": "diffusion_pytorch_model-1.safetensors"}}, "cannot read"),
        ({"weight_map": {"a": "diffusion_pytorch_model-2.safetensors"}}, "has no a"),
    ],
)
def test_a_damaged_index_is_one_line(index: Any, message: str, diffusers_files: Any, tmp_path: Path) -> None:
    """Whatever it names."""
    weights = tmp_path / "theirs" / WEIGHTS
    weights.rename(weights.with_name("diffusion_pytorch_model-2.safetensors"))
    weights.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message) as error:
        fn.load(tmp_path / "theirs")
    assert "\n" not in str(error.value)
