"""Autoencoders and diffusion models of latents in training: as for models of pixels, and what is their own."""

from __future__ import annotations

import pytest
import torch

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.data import to_float, to_uint8
from fromnoise.model import build_trainable
from fromnoise.pipeline import collect, sample_steps
from fromnoise.run_dir import RunDir
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.latents import (
    LatentImages,
    autoencoder_recipe,
    cache_latents,
    encoded,
    fit_latent_space,
    own_budget,
)
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.run import train
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

CPU = select_device("cpu", "fp32")
AUTOENCODER = {
    "data.source": "digits",
    "autoencoder.width": 8,
    "autoencoder.factor": 2,
    "autoencoder.patch": 1,
    "autoencoder.blocks": 1,
    "autoencoder.latent_channels": 2,
    "train.held_out": 16,
    "train.batch": 16,
    "train.evaluations": 2,
    "train.previews": 0,
    "train.report_every": 2,
    "sample.count": 4,
}
LATENT = AUTOENCODER | {"network.width": 8, "network.attention_resolutions": [], "sample.steps": 3}
KINDS = {"autoencoder": AUTOENCODER, "latent": LATENT}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of the recipe ``latent``, which trained its autoencoder first."""
    out = tmp_path_factory.mktemp("latent") / "run"
    train(recipes.load("latent", LATENT | {"train.steps": 12}), out, device="cpu", precision="fp32")
    return out


@pytest.fixture(scope="module")
def digits():
    """The data of the recipes."""
    return open_data(recipes.load("latent", LATENT), lambda line: None)


def loop_of(kind, digits, runs, steps=12, resumed=None, **values):
    """A training loop, new or resumed from the state of another."""
    recipe = recipes.load(kind, KINDS[kind] | {"train.steps": steps} | values)
    model = build_trainable(recipe, dataset_info(recipe, digits))
    loop = TrainingLoop(model, digits, CPU, make_accelerator(cpu=True), lambda skip: None)
    if resumed is not None:
        loop.resume(*resumed)
    elif kind == "latent":
        fit_latent_space(loop, checkpoint.load_autoencoder(runs / "autoencoder"))
    cache_latents(loop, lambda line: None)
    return loop


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_is_uninterrupted_bit_for_bit(kind, digits, runs):
    """Twelve steps, and six with a state and six from it."""
    whole = loop_of(kind, digits, runs)
    losses = [report.loss for report in whole.run()]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    first = loop_of(kind, digits, runs)
    for _, _ in zip(range(6), first.run(), strict=False):
        pass
    tensors, header = first.state()
    state = {name: t.clone() for name, t in tensors.items()}, header
    second = loop_of(kind, digits, runs, resumed=state)
    assert [report.loss for report in second.run()][-1] == losses[-1]
    for name, t in whole.ema_state_dict().items():
        assert torch.equal(t, second.ema_state_dict()[name]), name


def test_the_run_directory_has_both_networks_in_one_file(runs):
    """The file loads without the folder of the autoencoder, whose weights it has as they were."""
    model = checkpoint.load_model(runs / "model.safetensors").model
    autoencoder = checkpoint.load_autoencoder(runs / "autoencoder")
    trained = autoencoder.module.state_dict()
    for name, t in model.latent_space.autoencoder.state_dict().items():
        assert torch.equal(t, trained[name]), name
    assert model.parameters == sum(p.numel() for p in model.network.parameters())
    assert (runs / "samples.png").exists() and (runs / "autoencoder" / "reconstructions.png").exists()


def test_latents_of_the_training_set_are_standardized(digits, runs):
    """Samples of q(z | x) over the whole set have mean 0 and variance 1 in each channel."""
    model = checkpoint.load_model(runs).model
    moments = encoded(model, digits.train, CPU, flip=False).get(torch.arange(len(digits.train)))
    mean, deviation = moments.double().chunk(2, dim=1)
    assert float(mean.mean((0, 2, 3)).abs().max()) < 1e-3
    variance = (mean**2 + deviation**2).mean((0, 2, 3))
    torch.testing.assert_close(variance, torch.ones(2).double(), rtol=0, atol=2e-3)


def test_cached_latents_are_those_of_the_images(digits, runs):
    """At the same positions, mirrored ones too; the cache has half the precision of float32."""
    values = {"data.flip": True}
    cached = loop_of("latent", digits, runs, **values)
    computed = loop_of("latent", digits, runs, **values, **{"latent.cache": False})
    assert isinstance(cached.stream.images, LatentImages)
    assert not isinstance(computed.stream.images, LatentImages)
    one, other = (loop.stream.batch(range(40, 72)) for loop in (cached, computed))
    a, b = (
        loop.model.training_inputs(batch.pixels, None, batch.positions, CPU)[0]
        for loop, batch in ((cached, one), (computed, other))
    )
    torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
    later = cached.model.training_inputs(one.pixels, None, one.positions + len(digits.train), CPU)[0]
    assert not torch.equal(a, later), "the latents of another epoch have other noise"


def test_samples_do_not_depend_on_the_batch(runs):
    """Sample i is a function of (seed, i)."""
    model = checkpoint.load_model(runs).model
    ids = torch.arange(5)
    whole, single = (
        collect(sample_steps(model, model.recipe.sample, CPU, ids=ids, seed=2, batch=batch)).images for batch in (5, 1)
    )
    assert whole.shape == (5, 1, 8, 8)
    assert torch.equal(whole, single)


def test_an_autoencoder_learns(digits, runs):
    """An autoencoder that was trained for 200 steps explains half of the variance of held-out images."""
    loop = loop_of("autoencoder", digits, runs, steps=200, **{"train.evaluations": 1})
    for _ in loop.run():
        pass
    pixels = digits.held_out.get(torch.arange(64))
    x = to_float(pixels)
    out = loop.ema_model().reconstruct(pixels, CPU)
    assert float((out - x).square().mean()) < 0.6 * float((x - x.mean(0)).square().mean())
    assert to_uint8(out).shape == pixels.shape


def test_budget_of_the_autoencoder():
    """``latent.share`` of a budget in the same unit; the images and the network are those of the latent recipe."""
    for budget, expected in (("steps", 40), ("minutes", 4.0), ("images", 40), ("epochs", 4.0)):
        amount = 10.0 if budget in ("minutes", "epochs") else 100
        recipe = recipes.load("latent", LATENT | {f"train.{budget}": amount, "latent.share": 0.4, "train.seed": 7})
        own = autoencoder_recipe(recipe)
        assert getattr(own.train, budget) == pytest.approx(expected)
        assert own.autoencoder == recipe.autoencoder
        assert own.data.source == "digits"
        assert own.train.seed == 7
        assert own.reconstruction is not None


def test_a_trained_autoencoder_is_taken_as_it_is(tmp_path, runs):
    """``latent.source``: its network replaces that of the recipe."""
    values = LATENT | {"train.steps": 2, "autoencoder.width": 16, "latent.source": str(runs / "autoencoder")}
    train(recipes.load("latent", values), tmp_path / "run", device="cpu", precision="fp32")
    model = checkpoint.load_model(tmp_path / "run").model
    assert model.recipe.autoencoder.width == 8
    assert not (tmp_path / "run" / "autoencoder").exists()
    train(recipes.load("latent", values | {"train.steps": 4}), tmp_path / "run", device="cpu", precision="fp32")
    assert checkpoint.load_model(tmp_path / "run").progress["step"] == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent.source": "AUTOENCODER", "data.channels": 3}, "has images of 1 channels, the data have 3"),
        ({"latent.source": "RUN"}, "is a diffusion model, not an autoencoder"),
        ({"latent.source": "nothing"}, "nothing"),
        (
            {"autoencoder.factor": 16, "autoencoder.patch": 2},
            "8x8 cannot be divided by factor 16: use",
        ),
        ({"autoencoder.factor": 6}, "factor 6 must be a power of two"),
        ({"latent.recipe": "digits"}, "latent.recipe digits trains no autoencoder"),
        ({"sample.clip": True}, "set sample.clip false"),
        ({"loss.objective": "vlb"}, "codes pixels of 8 bits, not latents"),
        ({"latent.source": "AUTOENCODER", "data.size": 9}, "9x9 cannot be divided by the factor 2 of the autoencoder"),
        ({"data.pseudo_labels": 8}, "set data.pseudo_labels 0"),
        ({"reconstruction": "regularized", "data.labels": True}, "an autoencoder is not conditioned"),
    ],
)
def test_wrong_pairs_get_one_line(tmp_path, runs, values, message):
    """Before anything is written."""
    paths = {"AUTOENCODER": str(runs / "autoencoder"), "RUN": str(runs)}
    values = {key: paths.get(value, value) for key, value in values.items()}
    with pytest.raises(UserError, match=message.replace(".", r"\.")) as error:
        train(recipes.load("latent", LATENT | {"train.steps": 2} | values), tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_an_autoencoder_is_no_diffusion_model(runs):
    """Verbs that need one name the mistake and what to do."""
    with pytest.raises(UserError, match="is an autoencoder, not a diffusion model: .* train latent --autoencoder"):
        checkpoint.load_model(runs / "autoencoder")


def test_autoencoders_from_python(digits, runs):
    """Encode, decode and reconstruct; an autoencoder with a small KL divergence is not sampled."""
    import fromnoise as fn

    autoencoder, images = fn.load_autoencoder(runs / "autoencoder", device="cpu"), digits.held_out.get(torch.arange(3))
    mean, log_variance = autoencoder.encode(images)
    assert mean.shape == log_variance.shape == (3, *autoencoder.latent_shape)
    assert torch.equal(autoencoder.decode(mean), autoencoder.reconstruct(images))
    with pytest.raises(UserError, match="do not follow a prior"):
        autoencoder.sample(2)


@pytest.mark.parametrize(
    ("side", "changes", "name"),
    [
        (64, {}, "images"),
        (96, {"train.minutes": 7.0, "data.flip": False, "sample.count": 9}, "latent"),
        (128, {"train.epochs": 3.0, "train.batch": 16}, "latent"),
        (128, {"network.width": 32}, "images"),
        (98, {}, "images"),
        (128, {"data.large_recipe": ""}, "images"),
    ],
)
def test_recipe_for_the_size_of_the_images(side, changes, name):
    """Recipe ``images`` of large images is ``latent``, unless its own keys were changed; other values are kept."""
    from fromnoise.training.recipe_choice import for_size

    chosen = for_size(recipes.load("images", changes), (3, side, side))
    assert chosen.name == name
    assert {key: recipes.get(chosen, key) for key in changes} == changes


def test_trainer_in_python(tmp_path):
    """An autoencoder, then a diffusion model of its latents from its run, in memory and in a run directory."""
    import fromnoise as fn

    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    quiet = {"device": "cpu", "progress": False, "batch": 8, "steps": 2, "train__previews": 0, "sample__count": 0}
    small = {k.replace(".", "__"): v for k, v in AUTOENCODER.items() if k.startswith("autoencoder")}
    autoencoder = fn.Trainer("autoencoder", images, out=tmp_path / "ae", **quiet, **small).run()
    assert autoencoder.reconstruct(images[:2]).shape == (2, 1, 8, 8)
    network = {"network__width": 8, "network__attention_resolutions": [], "sample__steps": 2}
    with pytest.raises(UserError, match="needs a trained autoencoder: give latent__source="):
        fn.Trainer("latent", images, **quiet, **network)
    for out in (None, tmp_path / "run", tmp_path / "run"):
        source = {"latent__source": str(tmp_path / "ae")}
        pipeline = fn.Trainer("latent", images, out=out, **quiet, **network, **source).run()
        assert pipeline.sample(2, progress=False).shape == (2, 1, 8, 8)
        assert pipeline.model.recipe.autoencoder.width == 8


def test_budget_in_minutes_of_the_diffusion_model(tmp_path):
    """The autoencoder's time is taken from it, so that the learning rate follows what is left."""
    recipe = recipes.load("latent", LATENT | {"train.minutes": 10.0, "latent.share": 0.25})
    assert own_budget(recipe).train.minutes == pytest.approx(7.5)
    assert own_budget(recipe, 120.0).train.minutes == pytest.approx(8.0)
    for values in ({"latent.source": "runs/ae"}, {"train.steps": 5}):
        other = recipes.load("latent", LATENT | {"train.minutes": 10.0} | values)
        assert own_budget(other) == other
    out, values = tmp_path / "run", LATENT | {"train.minutes": 0.05, "latent.share": 0.5, "sample.count": 0}
    result = train(recipes.load("latent", values), out, device="cpu", precision="fp32")
    spent = result.seconds + 60 * (0.05 - RunDir(out).recipe().train.minutes)
    assert spent < 5
    reports = RunDir(out).read_reports()
    assert reports[0]["lr"] > 0 and reports[0]["budget_used"] < 0.3


def test_the_autoencoder_is_in_evaluation_mode(digits, runs):
    """From the beginning, and in training: a dropout layer of its own would be off."""
    model = loop_of("latent", digits, runs).model
    assert not any(module.training for module in model.latent_space.modules())
    model.module.train()
    assert not any(module.training for module in model.latent_space.modules())


def test_labels_follow_images_that_replace_unreadable_ones(runs):
    """The latents of image 1 in place of image 0 keep the label of image 1."""

    class Images:
        shape, labels = (1, 8, 8), torch.tensor([0, 1])

        def __len__(self):
            return 2

        def get_with_indices(self, indices):
            return torch.zeros(len(indices), 1, 8, 8, dtype=torch.uint8), torch.ones_like(indices)

    found = encoded(checkpoint.load_model(runs).model, Images(), CPU, flip=False)
    assert found.labels.tolist() == [1, 1]


def test_a_folder_left_by_a_kill_before_the_recipe(tmp_path):
    """An autoencoder folder that has nothing but a lock is taken over."""
    (tmp_path / "run" / "autoencoder").mkdir(parents=True)
    (tmp_path / "run" / "autoencoder" / ".lock").touch()
    train(recipes.load("latent", LATENT | {"train.steps": 2}), tmp_path / "run", device="cpu", precision="fp32")
    assert checkpoint.load_model(tmp_path / "run").progress["step"] == 2


def test_batches_of_the_autoencoder_fit_any_number_of_processes():
    """Rounded up to a multiple."""
    recipe = recipes.load("latent", LATENT | {"train.steps": 10})
    assert [autoencoder_recipe(recipe, n).train.batch for n in (1, 3, 16)] == [8, 9, 16]


def test_latents_are_not_clipped_when_sampling(runs):
    """One line, from Python too."""
    import fromnoise as fn

    with pytest.raises(UserError, match="latents are not bounded by 1"):
        fn.load(runs, device="cpu").sample(1, clip=True, progress=False)


def test_bounds_use_other_noise_than_training(runs):
    """Of the same seed and number: the latents of a bound are not those that were trained on."""
    from fromnoise.diffusion.rng import Noise
    from fromnoise.evaluation.autoencoder_bits import sampled_latents

    model = checkpoint.load_model(runs).model
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    trained, _ = model.training_inputs(pixels, None, torch.zeros(1, dtype=torch.int64), CPU)
    measured, _ = sampled_latents(model.latent_space, to_float(pixels), Noise(0, torch.zeros(1, dtype=torch.int64)))
    assert not torch.allclose(trained, measured)


@pytest.mark.parametrize("name", ["model.safetensors", "autoencoder/model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "bit", "empty"])
def test_damaged_files_are_named(runs, tmp_path, name, damage):
    """One line with the file's name, for both kinds of models."""
    content = bytearray((runs / name).read_bytes())
    if damage == "bit":
        content[-5] ^= 8
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[:-9] if damage == "truncated" else b"" if damage == "empty" else content)
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        checkpoint.load_trainable(path)
    assert "\n" not in str(error.value)
