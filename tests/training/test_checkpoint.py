"""Checkpoints come back bit for bit, or are refused in one sentence."""

import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sat_optuna.errors import CheckpointError, WriteError
from sat_optuna.training.checkpoint import (
    environment,
    load_tensors,
    read_record,
    save_checkpoint,
    versions,
)
from tests.full_disk import room_for

RECORD = {"fingerprint": "abc", "history": [{"epoch": 0, "loss": 0.1}], "name": "Grüße"}


def tensors():
    ramp = torch.arange(24.0).reshape(1, 2, 3, 4)
    return {
        "weight": ramp.to(memory_format=torch.channels_last).requires_grad_(),
        "turned": ramp[0, 0].t(),
        "count": torch.tensor(7),
        "half": torch.tensor([0.5, float("inf")], dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
    }


@pytest.fixture
def path(tmp_path):
    return save_checkpoint(tmp_path / "net.safetensors", tensors(), RECORD)


def test_tensors_and_record_come_back(path):
    assert read_record(path) == RECORD
    loaded = load_tensors(path)
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.detach())
        assert loaded[name].is_contiguous()
        assert not loaded[name].requires_grad


def test_a_checkpoint_without_tensors_keeps_its_record(tmp_path):
    path = save_checkpoint(tmp_path / "empty", {}, RECORD)
    assert (read_record(path), load_tensors(path)) == (RECORD, {})


def test_it_replaces_the_one_before_and_leaves_no_other_file(path):
    before = load_tensors(path)
    save_checkpoint(path, {"other": torch.ones(2)}, {"epoch": 1})
    assert read_record(path) == {"epoch": 1}
    assert list(load_tensors(path)) == ["other"]
    assert list(path.parent.iterdir()) == [path]
    assert torch.equal(before["weight"], tensors()["weight"])  # what was read stays as it was


def test_a_full_disk_leaves_the_one_before(path):
    with room_for(4000), pytest.raises(WriteError, match=f"cannot write {path}: File too large"):
        save_checkpoint(path, {"large": torch.zeros(5000)}, {})
    assert read_record(path) == RECORD
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_write_error(path):
    with pytest.raises(WriteError):
        save_checkpoint(path / "below", {}, RECORD)


@pytest.mark.parametrize("read", [read_record, load_tensors])
def test_cut_anywhere_it_is_refused(path, read):
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    lengths = {0, 1, 7, 8, 9, header // 2, header + 7, header + 8, header + 9, len(whole) - 1}
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(caught.value).startswith(f"cannot read checkpoint {path}: ")
        assert str(caught.value).endswith("; move it away and run the same command again")


def test_a_file_that_is_too_long_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="file not fully covered"):
        read_record(path)


@pytest.mark.parametrize("where", range(12))
def test_a_flipped_bit_anywhere_is_refused(path, where):
    whole = bytearray(path.read_bytes())
    whole[(len(whole) - 1) * where // 11] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"cannot read checkpoint {path}: "):
        load_tensors(path)


def test_a_file_without_a_digest_is_read_as_before(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"sat_optuna": '{"fingerprint": "a"}'})
    assert load_tensors(path)["weight"].tolist() == [1, 1]


FOREIGN = {
    "text": b"accuracy,loss\n0.1,0.2\n",
    "huge length": b"\xff" * 100,
    "picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "list": struct.pack("<Q", 2) + b"[]",
    "pickle": b"\x80\x04\x95" + b"a" * 50,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("read", [read_record, load_tensors])
def test_another_kind_of_file_is_refused(tmp_path, content, read):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"sat_optuna": "[1]"}])
def test_a_safetensors_file_of_another_program_is_refused(tmp_path, metadata):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="it is not of this program; move it away"):
        load_tensors(path)


def test_a_record_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"sat_optuna": "{half"})
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read_record(path)


@pytest.mark.parametrize("read", [read_record, load_tensors])
def test_a_missing_file_and_a_folder_are_told_apart(tmp_path, read):
    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(caught.value) == f"there is no checkpoint {path}; run the training that writes it"
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read(tmp_path)


def test_reading_a_record_imports_no_torch(path):
    program = (
        "import sys; from pathlib import Path\n"
        "from sat_optuna.training.checkpoint import read_record\n"
        f"assert read_record(Path({str(path)!r}))['fingerprint'] == 'abc'\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_versions_and_environment_say_what_decides_a_result():
    assert torch.__version__.split("+")[0] == versions()["torch"].split("+")[0]
    assert versions().keys() == {
        "python", "sat_optuna", "torch", "torchvision", "optuna", "mlflow", "numpy"
    }  # fmt: skip
    here = environment("cpu", 2)
    assert here == environment("cpu", 2) != environment("cpu", 1)
    assert here["versions"]["torch"] == versions()["torch"]
