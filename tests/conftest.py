"""What many tests need: no plug-ins but our own, a small network, a hand-made distribution of scores."""

from __future__ import annotations

import os
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: threads of tests side by side wait for one another's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from torch import nn

from tests.processes import restore_ctrl_c
from yolov5_prune_plugin.yolov5.checkout import heads  # noqa: F401  # has core read the outputs of detectors

# The same examples each time; pytest --hypothesis-profile=search looks for others.
settings.register_profile("quick", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("quick")


restore_ctrl_c()


@pytest.fixture(autouse=True)
def _no_strangers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins that happen to be installed here stay out, except where the real scripts are run with one."""
    if not request.node.get_closest_marker("upstream"):
        monkeypatch.setenv("YOLOV5_PRUNE_PLUGINS", "off")


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """What a test's code sets in the environment, such as a shim's switch for torch, is gone in the next test."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def net() -> nn.Module:
    """Three convolutions, one depthwise and one of them with a single output channel, and what is not treated."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 1, 1)
    )
