"""Recipes: every one parses and survives TOML; mistakes get one line that names the remedy."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.utils.errors import UserError


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_whole(name):
    """A recipe's name is its file's, it says what it is, and it is the same after a trip through TOML."""
    r = recipes.load(name)
    assert r.name == name
    assert r.about and r.cost and r.quality
    assert recipes.parse(tomllib.loads(recipes.to_toml(r))) == r


def test_the_systems_are_all_there():
    """The issue's list of names."""
    assert {"digits", "pulfer", "pulfer-fashion", "simple", "unet", "flowers", "ho2020", "images"} <= set(
        recipes.names()
    )


@given(st.text(max_size=40))
def test_any_text_survives_toml(text):
    """Names of folders may hold quotes, backslashes, control characters."""
    text = text.encode("utf-8", "ignore").decode()
    r = recipes.parse({"about": text, "train": {"steps": 1}})
    assert recipes.parse(tomllib.loads(recipes.to_toml(r))).about == text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train.lrr": 1}, ["train.lrr", "train.lr"]),
        ({"loss.distanc": "mse"}, ["loss.distanc", "loss.distance"]),
        ({"nonsense.key": 1}, ["nonsense"]),
        ({"train.lr": -1}, ["train.lr", "greater than 0"]),
        ({"train.lr": "fast"}, ["train.lr", "number"]),
        ({"train.lr": float("nan")}, ["train.lr"]),
        ({"data.size": 0}, ["data.size"]),
        ({"network.dropout": "much"}, ["network.dropout", "number"]),
        ({"network.kind": "unett"}, ["network", "unett", "unet"]),
        ({"sample.steps": 2000}, ["2000", "1000"]),
        ({"diffusion.schedule": "cosine-continuous", "loss.objective": "vlb"}, ["beta schedule"]),
        ({"name.first": "x"}, ["name.first"]),
        ({"train.steps": 0}, ["train.steps"]),
    ],
)
def test_mistakes_are_one_line(overrides, words):
    """Each names the key, and the nearest one or the legal values."""
    with pytest.raises(UserError) as e:
        recipes.load("ho2020", overrides)
    message = str(e.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_recipe_names_the_nearest():
    """A slip of the finger."""
    with pytest.raises(UserError, match="did you mean pulfer"):
        recipes.load("pulfr")


def test_missing_and_broken_files(tmp_path):
    """A .toml that is not there, or is not TOML."""
    with pytest.raises(UserError, match="cannot read"):
        recipes.load(str(tmp_path / "no.toml"))
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(UserError, match="not valid TOML"):
        recipes.load(str(tmp_path / "bad.toml"))


def test_a_budget_replaces_the_recipes_own():
    """``--minutes 5`` on a recipe of epochs leaves one budget."""
    r = recipes.load("pulfer", {"train.minutes": 5})
    assert (r.train.minutes, r.train.epochs) == (5, None)


def test_tutorial_networks_refuse_labels():
    """They have no input for them."""
    recipe = recipes.load("pulfer", {"data.labels": True})
    with pytest.raises(UserError, match="network pulfer"):
        build(recipe, DatasetInfo((1, 28, 28), ("a", "b")))


def test_networks_refuse_impossible_options():
    """The constructor's message becomes the user's line."""
    with pytest.raises(UserError, match="network unet: dropout"):
        build(recipes.load("digits", {"network.dropout": 1.0}), DatasetInfo((1, 8, 8)))


def test_difference_names_keys():
    """What resuming compares."""
    a, b = recipes.load("pulfer"), recipes.load("pulfer", {"train.lr": 0.5, "train.epochs": 3})
    assert recipes.difference(a, b, ("train.epochs",)) == ["train.lr is 0.001 there and 0.5 here"]


def test_sizes_may_be_one_number_or_two():
    """A side, or height and width."""
    assert recipes.load("images", {"data.size": 32}).data.size == (32, 32)
    assert recipes.load("images", {"data.size": [32, 48]}).data.size == (32, 48)
