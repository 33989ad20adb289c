"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fromnoise.networks import kernels

# child processes and xdist workers share the cores
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` slow tests come first, one by one, and the others of a module share a process.

    No process waits long for the last test then, and none makes the fixtures of a module that another one makes.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if not item.get_closest_marker("slow") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def _matplotlib(tmp_path_factory):
    os.environ.setdefault("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _kernels():
    """From the first test on, so that results do not depend on whether an earlier test has trained."""
    kernels.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sets: $FROMNOISE_DATA, or ../shared/data beside the checkout."""
    place = Path(os.environ.get("FROMNOISE_DATA") or Path(__file__).parents[2] / "shared" / "data").resolve()
    if not place.is_dir():
        pytest.skip("the real data sets are not here: set FROMNOISE_DATA")
    return place
