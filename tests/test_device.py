"""What is wrong with a device or its memory is said in one sentence, and nothing is lost by it."""

import sqlite3
import warnings
from collections.abc import Callable

import optuna
import pytest
import torch
from torch import nn

from sat_optuna.config.config import TrainConfig
from sat_optuna.data import load_dataset
from sat_optuna.data.split import Split
from sat_optuna.device import DeviceError, DeviceMemoryError, known_device, memory_for
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.evaluate import Evaluator, evaluate_network, score_scheme
from sat_optuna.search.objective import SupernetObjective, TrainObjective
from sat_optuna.search.study import MACHINE_KEY
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training import precision
from sat_optuna.training.checkpoint import environment
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import Arithmetic, arithmetic_for, pick_device
from tests.networks import SHAPE, tiny_supernet

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80 GiB."


class Small(nn.Module):
    """A part of a network that has room for so many images and no more."""

    def __init__(self, part: nn.Module, room: int) -> None:
        super().__init__()
        self.part, self.room = part, room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError(SAID)
        out: torch.Tensor = self.part(x)
        return out


def small(room: int) -> Supernet:
    """A supernet whose head has room for so many images."""
    net = tiny_supernet()
    net.backbone.head = Small(net.get_submodule("backbone.head"), room)
    return net


def data(count: int = 60) -> Split:
    x = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)
    return Split.from_arrays(x, torch.arange(count) % 5)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda net, parts: fit(net.backbone, parts.train, epochs=1, seed=0),
            "training in batches of 64 images (2.00 GiB more were asked for); lower train.batch",
        ),
        (
            lambda net, parts: evaluate_network(net.backbone, parts.train, batch=20),
            "scoring in batches of 20 images (2.00 GiB more were asked for); give a smaller batch",
        ),
        (
            lambda net, parts: Evaluator(net, parts.train, chunk=30).score_all(),
            "scoring in chunks of 30 images (2.00 GiB more were asked for); give a smaller chunk, "
            "or a limit of memory",
        ),
        (
            lambda net, parts: score_scheme(
                net,
                next(iter(Evaluator(net, parts.train).all_schemes())),
                calibration=[torch.randn(16, *SHAPE)],
                images=parts.train,
            ),
            "calibration in chunks of 16 images (2.00 GiB more were asked for); give smaller "
            "calibration chunks",
        ),
    ],
    ids=["fit", "evaluate_network", "Evaluator", "recalibration"],
)
def test_memory_that_does_not_suffice_is_said(
    what: Callable[[Supernet, Split], object], said: str
):
    net, parts = small(8), data()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DeviceMemoryError) as caught:
        what(net, parts)
    expected = f"the device has no memory for {said}, or end what else uses the device"
    assert str(caught.value) == expected
    if "training" not in said:
        assert all(value.equal(before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("raised", "known"),
    [
        (torch.OutOfMemoryError(SAID), "2.00 GiB more were asked for"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), ""),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 64000000000 bytes. Error code 12"
            ),
            "64000000000 bytes more were asked for",
        ),
    ],
    ids=["torch", "driver", "library", "CPU"],
)
@pytest.mark.parametrize("others", [0, 70], ids=["alone", "beside others"])
def test_who_holds_the_memory_is_said(monkeypatch, raised, known, others):
    """Of 80 GiB this process has 8, and 7 of these are torch's."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 7 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: ((72 - others) * gib, 80 * gib))
    held = f"other processes hold {others + 1}.0 of its 80.0 GiB" if others else ""
    if others and isinstance(raised, torch.OutOfMemoryError):
        raised = torch.OutOfMemoryError(f"{SAID} Including more, this process has 8.00 GiB memory")
        held = f"other processes hold {others}.0 of its 80.0 GiB"
    facts = ", and ".join(filter(None, (known, held)))
    with pytest.raises(DeviceMemoryError) as caught, memory_for("9 images", "take fewer"):
        raise raised
    assert str(caught.value) == (
        f"the device has no memory for 9 images{f' ({facts})' if facts else ''}; take fewer, or "
        "end what else uses the device"
    )


def test_another_error_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="shapes differ"), memory_for("it", "take fewer"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            "MIG-7f3c",
            "CUDA_VISIBLE_DEVICES = 'MIG-7f3c' names no GPU, nor a slice of one, that is",
        ),
        ("GPU-1a2b,GPU-3c4d", "= 'GPU-1a2b,GPU-3c4d' names no GPU"),
        ("7", "= '7' names no GPU"),
        ("", None),
        ("-1", None),
        ("NoDevFiles", None),
        (None, None),
    ],
)
def test_visible_devices_that_are_not_here_are_said(monkeypatch, named, said):
    """Torch itself takes it for a machine without a GPU, and says nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert pick_device() == torch.device("cpu")
    assert len(caught) == (said is not None)
    assert all(said in str(one.message) for one in caught)
    under = f" under CUDA_VISIBLE_DEVICES = '{named}'" if said else ""
    with pytest.raises(DeviceError, match=f"^there is no device 'cuda:0'{under}; give one of"):
        known_device("cuda:0")


def test_a_slice_of_a_gpu_is_a_device_like_any_other(monkeypatch):
    """CUDA shows a process one slice (MIG), as the only GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7f3c,MIG-8a4d")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert known_device("cuda:0") == torch.device("cuda:0")
    assert (known_device("cuda"), pick_device()) == (torch.device("cuda"),) * 2
    with pytest.raises(DeviceError, match="'cuda:1' under CUDA_VISIBLE_DEVICES = 'MIG-7f3c,MIG-8"):
        known_device("cuda:1")


def test_a_network_without_room_for_one_image_is_not_blamed_on_the_images():
    with pytest.raises(DeviceMemoryError, match=r"memory for one image in the network .*2\.00 G"):
        fit(small(0).backbone, data().train, epochs=1, seed=0)


@pytest.mark.parametrize("trains", [False, True])
def test_a_study_is_whole_after_a_trial_without_memory(tmp_path, trains):
    """The memory comes back, when another process ends for example, and the study goes on."""

    def objective(room: int) -> SupernetObjective | TrainObjective:
        net, config = small(room), TrainConfig(batch=16)
        if trains:
            return TrainObjective(net, parts, epochs=1, config=config)
        return SupernetObjective(net, parts, calibration=16)

    parts = data()
    values = []
    for name, rooms in (("whole", (64, 64)), ("broken", (64, 4, 64))):
        study = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'study.db'}",
            study_name=name,
            direction="maximize",
            sampler=optuna.samplers.BruteForceSampler(seed=0),
        )
        for room in rooms:
            try:
                study.optimize(objective(room), n_trials=1)
            except DeviceMemoryError:
                assert room == 4
        states = [trial.state.name for trial in study.trials]
        assert states == ["COMPLETE" if room == 64 else "FAIL" for room in rooms]
        values.append({t.user_attrs["scheme"]: t.value for t in study.trials if t.value})
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    shared = values[0].keys() & values[1].keys()
    assert shared
    assert all(values[0][scheme] == values[1][scheme] for scheme in shared)


def test_a_study_that_goes_on_on_another_device_says_so():
    objective = SupernetObjective(tiny_supernet(), data(), calibration=0)
    study = optuna.create_study(direction="maximize")
    here = environment("cuda", torch.get_num_threads())  # as CUDA_VISIBLE_DEVICES="" leaves it
    study.set_user_attr(MACHINE_KEY, here)
    with pytest.warns(SatOptunaWarning, match=r"begun elsewhere \(device: cuda then, cpu now\)"):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize("given", ["cuda:7", "gpu", "cuda:x"])
def test_a_device_that_is_not_here_is_refused(given):
    x, y = torch.zeros(10, *SHAPE), torch.arange(10) % 5
    pairs = torch.utils.data.TensorDataset(x, y)
    for call in (
        lambda: known_device(given),
        lambda: load_dataset("mnist5k", device=given),
        lambda: Split.from_arrays(x, y, device=given),
        lambda: Split.from_loaders(pairs, pairs, device=given),
    ):
        with pytest.raises(DeviceError, match=rf"'{given}'.*; give one of those here: cpu"):
            call()


def test_a_driver_that_is_too_old_is_said(monkeypatch):
    """Torch itself warns, and then the CPU computes."""

    def is_available() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version "
            "11040). (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:119.)",
            UserWarning,
            stacklevel=1,
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with pytest.warns(SatOptunaWarning) as caught:
        assert pick_device() == torch.device("cpu")
    said = str(caught[0].message)
    assert said.startswith("torch can use no GPU here (CUDA initialization: The NVIDIA driver on")
    assert said.endswith("; update the driver, or install a torch that was built for it")
    assert "\n" not in said


def test_a_card_without_bfloat16_trains_in_float16_and_says_so(monkeypatch):
    monkeypatch.setattr(precision, "_computes_bfloat16", lambda: False)
    asked = TrainConfig(precision="bfloat16")
    with pytest.warns(SatOptunaWarning, match="does not compute in bfloat16, so .* float16; set"):
        found = arithmetic_for(asked, tiny_supernet(), torch.device("cuda"))
    assert found == Arithmetic("float16", "channels_last")
