"""Autoencoders of diffusers: the same latents and images, back byte for byte, and taken by every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

import fromnoise as fn
from fromnoise import checkpoint, cli, config, interop
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import AutoencoderModel, build_autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"
TWO_LEVELS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as of Stable Diffusion, grey": TWO_LEVELS | {"in_channels": 1, "out_channels": 1, "layers_per_block": 2},
    "without attention and 1x1 convolutions": {
        **TWO_LEVELS,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latent_channels": 3,
        "shift_factor": 0.1,
        "act_fn": "gelu",
    },
    "one level, 8x12": {"block_out_channels": (8,), "sample_size": [8, 12], "norm_num_groups": 2},
    "three levels, no convolution before the decoder": {
        "block_out_channels": (8, 4, 12),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "use_post_quant_conv": False,
    },
}


def random_autoencoder(**options: Any) -> AutoencoderKL:
    """An AutoencoderKL of 8x8 images, every weight random, also those of the normalizations."""
    torch.manual_seed(0)
    theirs = AutoencoderKL(**({"sample_size": 8, "norm_num_groups": 4} | options)).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved autoencoder of grey images, which the tests copy."""
    path = tmp_path_factory.mktemp("theirs") / "vae"
    random_autoencoder(**CONFIGURATIONS["as of Stable Diffusion, grey"]).save_pretrained(path)
    return path


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.inference_mode()
def test_the_autoencoder_is_theirs(options, tmp_path):
    """The same moments and images within 1e-5; exported, the same bytes, which diffusers opens with its options."""
    theirs = random_autoencoder(**options)
    theirs.save_pretrained(tmp_path / "theirs")
    model = interop.import_model(tmp_path / "theirs").model
    assert isinstance(model, AutoencoderModel)
    x = torch.randn(2, *model.dataset_info.shape)
    expected = theirs.encode(x).latent_dist
    mean, log_variance = model.module.encode(x)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_variance, expected.logvar, rtol=1e-5, atol=1e-5)
    assert mean.shape[1:] == model.module.latent_shape
    torch.testing.assert_close(model.module.decode(mean), theirs.decode(mean).sample, rtol=1e-5, atol=1e-5)
    interop.export_model(model, tmp_path / "ours", "diffusers")
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (tmp_path / "theirs" / WEIGHTS).read_bytes()
    again = AutoencoderKL.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.decode(mean).sample, theirs.decode(mean).sample)
    standardization = {"scaling_factor": 1.0, "shift_factor": None}
    plain = [{k: v for k, v in kl.config.items() if not k.startswith("_")} for kl in (again, theirs)]
    assert json.dumps(plain[0]) == json.dumps(plain[1] | standardization)


def test_an_import_is_a_run(folder, tmp_path, capsys):
    """From ``vae/`` of a pipeline to a run, which exports the same weights; the library loads both."""
    run = str(tmp_path / "run")
    assert cli.main(["import", str(folder.parent), "--size", "8", "--out", run]) == 0
    said = capsys.readouterr().out
    assert "autoencoder diffusers" in said and "scaling_factor not used" in said and "only the autoencoder" in said
    own, foreign = fn.load_autoencoder(run, device="cpu"), fn.load_autoencoder(folder, device="cpu")
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(own.reconstruct(images), foreign.reconstruct(images)) and own.latent_shape == (4, 4, 4)
    assert cli.main(["export", run, "--to", "diffusers", "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_diffusion_model_of_its_latents(folder, tmp_path):
    """The autoencoder is trained no further, and its reconstructions are evaluated, of the folder as it is too."""
    run, latent = str(tmp_path / "run"), str(tmp_path / "latent")
    interop.import_model(folder).save(tmp_path / "run")
    imported = checkpoint.load_autoencoder(run).module.state_dict()
    small = ["--network.width", "8", "--train.held_out", "16", "--train.batch", "16", "--train.previews", "0"]
    command = ["train", "latent", "--data", "digits", "--autoencoder", run, *small, "--out", latent, "--steps", "4"]
    assert cli.main([*command, "--sample.count", "0", "--sample.steps", "2", "--device", "cpu"]) == 0
    inner = checkpoint.load_model(latent).model.latent_space.autoencoder.state_dict()
    assert all(torch.equal(t, imported[name]) for name, t in inner.items())
    command = ["evaluate", run, str(folder), "--against", "digits", "-n", "16", "--device", "cpu"]
    assert cli.main([*command, "--out", str(tmp_path / "evaluation")]) == 0


WRONG = [
    ({"block_out_channels": [8, 24]}, "weights do not fit"),
    ({"block_out_channels": [8] * 40}, "block_out_channels"),
    ({"block_out_channels": []}, "block_out_channels"),
    ({"block_out_channels": [10**30, 8]}, "too large"),
    ({"block_out_channels": [8, -16]}, "1 or more"),
    ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "down_block_types"),
    ({"up_block_types": {"a": 1}}, "up_block_types"),
    ({"out_channels": 3}, "out_channels = 3"),
    ({"norm_num_groups": 3}, "norm_num_groups 3"),
    ({"latent_channels": 5}, "weights do not fit"),
    ({"use_quant_conv": False}, "weights do not fit"),
    ({"mid_block_add_attention": "yes"}, "mid_block_add_attention"),
    ({"act_fn": "\x1b[2J"}, "act_fn"),
    ({"sample_size": None}, "--size 32"),
    ({"sample_size": 7}, "a multiple of 2"),
    ({"layers_per_block": 10**9}, "layers_per_block"),
    ({"in_channels": True}, "in_channels"),
]


@pytest.mark.parametrize(("values", "named"), WRONG)
def test_what_is_not_supported_is_named(values, named, folder, tmp_path):
    """One printable line with the name of the option."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(fn.UserError, match=named) as caught:
        interop.import_model(copy)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "\x00\xff", '{"_class_name": "VQModel"}', "{}"])
def test_hostile_configurations(text, folder, tmp_path):
    """One line, whatever ``vae/config.json`` holds; ``{}`` is an AutoencoderKL of other sizes."""
    copy = shutil.copytree(folder, tmp_path / "pipeline" / "vae")
    (copy / "config.json").write_text(text)
    with pytest.raises(fn.UserError) as caught:
        interop.import_model(copy.parent)
    assert str(caught.value).isprintable()


def test_what_does_not_apply_is_refused(folder, tmp_path):
    """Autoencoders of another kind, options of samplers, other formats and ranges, and the other way of loading."""
    other = build_autoencoder(config.load("autoencoder", {"data.source": "x"}), DatasetInfo((1, 8, 8)))
    with pytest.raises(fn.UserError, match="autoencoder convolutional has other layers.*--to safetensors"):
        interop.export_model(other, tmp_path / "out", "diffusers")
    interop.export_model(other, tmp_path / "weights.safetensors", "safetensors")
    with pytest.raises(fn.UserError, match="cannot be exported --to onnx: use --to safetensors"):
        interop.export_model(other, tmp_path / "out", "onnx")
    ours = interop.import_model(folder).model
    with pytest.raises(fn.UserError, match="takes no --steps"):
        interop.export_model(ours, tmp_path / "out", "diffusers", {"steps": 5})
    with pytest.raises(fn.UserError, match="--value-range"):
        interop.import_model(folder, value_range=(0.0, 1.0))
    with pytest.raises(fn.UserError, match="use load_autoencoder"):
        fn.load(folder)
    assert not (tmp_path / "out").exists()


def test_a_recipe_trains_one(tmp_path):
    """Chosen by its kind; the recipe's own options of another kind do not stay."""
    values = ["--autoencoder.kind", "diffusers", "--autoencoder.block_out_channels", "[8,8]"]
    values += ["--autoencoder.norm_num_groups", "4", "--train.batch", "8", "--train.held_out", "16"]
    run = tmp_path / "run"
    command = ["train", "autoencoder", "--data", "digits", *values, "--steps", "2", "--train.previews", "0"]
    assert cli.main([*command, "--device", "cpu", "--out", str(run)]) == 0
    assert cli.main(["export", str(run), "--to", "diffusers", "--out", str(tmp_path / "out")]) == 0
    assert AutoencoderKL.from_pretrained(tmp_path / "out").config["latent_channels"] == 4
