"""What every test marked gpu is given: the device, and settings under which bits can be compared.

`pytest -m gpu` runs them on the GPU; with `--device cpu` the same tests run on the CPU.
"""

from typing import Any

import pytest
import torch

from tests.conftest import HARDWARE


@pytest.fixture
def device(request):
    """The device that the tests run on, as `parameter.device` names it."""
    return torch.device("cuda:0" if request.config.getoption("--device") == "cuda" else "cpu")


@pytest.fixture
def card(device):
    """The GPU, for what only a GPU has."""
    if device.type != "cuda":
        pytest.skip(HARDWARE)
    return device


@pytest.fixture
def exact_floats():
    """Float32 is float32: no TF32, which keeps 10 bits of each factor."""
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    yield
    for setting, precision in zip(settings, before, strict=True):
        setting.fp32_precision = precision


@pytest.fixture
def same_kernels(monkeypatch):
    """The same kernels in each run, none of which depends on chance."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
