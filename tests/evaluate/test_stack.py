"""What is pushed comes back as it was, and gives its bytes back in turn."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sat_optuna.evaluate import stack
from sat_optuna.evaluate.stack import Stack

CPU = torch.device("cpu")
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(params=[0, 4096, 2**26])
def slab(request, monkeypatch):
    """The least size of a slab: each push its own, a few to one, all in one."""
    monkeypatch.setattr(stack, "_SLAB", {"cpu": request.param})


@st.composite
def tensors(draw):
    """Images of a kind, or a view of some."""
    shape = [draw(st.integers(1, 5)) for _ in range(4)]
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    made = torch.randint(0, 2, shape, generator=chance).to(dtype)
    made = made.contiguous(memory_format=draw(st.sampled_from(FORMATS)))
    view = draw(st.sampled_from(["whole", "every second", "channels", "turned", "widened"]))
    return {
        "whole": lambda x: x,
        "every second": lambda x: x[:, :, ::2, ::2],
        "channels": lambda x: x[:, 1:],  # of a single one none is left
        "turned": lambda x: x.transpose(1, 3),
        "widened": lambda x: x[:1].expand(3, -1, -1, -1),
    }[view](made)


def layout(x: Tensor) -> tuple[object, ...]:
    formats = tuple(x.is_contiguous(memory_format=one) for one in FORMATS)
    return x.dtype, x.shape, x.stride(), formats


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_pushed_and_popped_in_any_order_that_a_stack_allows(slab, data):
    held = Stack(CPU)
    kept: list[tuple[list[Tensor], list[Tensor], int]] = []
    for _ in range(data.draw(st.integers(1, 20))):
        if kept and data.draw(st.booleans()):
            *_, before = kept.pop()
            held.pop()
            assert held.used == before
        else:
            given = data.draw(st.lists(tensors(), max_size=3))
            before = held.used
            copies = held.push(given)
            kept.append(([x.clone() for x in given], copies, before))
            assert [layout(x) for x in copies] == [layout(x) for x in given]
            spans = [x.untyped_storage().nbytes() for x in given]
            assert held.used - before <= sum(spans) + 128 * len(spans)
            for x in given:  # the copies are none of them
                x.untyped_storage().fill_(0)
        for wanted, copies, _ in kept:
            assert all(torch.equal(*both) for both in zip(copies, wanted, strict=True))
            assert all(x.data_ptr() % x.itemsize == 0 for x in copies)
    held.clear()
    assert held.used == 0


def test_tensors_that_share_memory_share_it_again(slab):
    held = Stack(CPU)
    x = torch.arange(240.0).view(2, 3, 5, 8)
    y = torch.ones(2, 3)
    one, (two, again), other, nothing, text = held.push((x, [x[1:, :2], x], {"y": y}, None, "z"))
    one[1, 1, 2, 3] = -1
    assert two[0, 1, 2, 3] == -1
    assert again.data_ptr() == one.data_ptr()
    assert (other["y"] == 1).all()
    assert (nothing, text) == (None, "z")
    assert x.min() == 0
    assert 960 + 24 <= held.used <= 960 + 24 + 128  # x once, y, and what aligns them


def test_a_part_of_a_tensor_takes_its_own_bytes_alone():
    held, x = Stack(CPU), torch.arange(10_000.0)
    (part,) = held.push([x[5000:5010]])
    assert part.tolist() == list(range(5000, 5010))
    assert held.used <= 128


def test_bytes_are_used_again(slab):
    held = Stack(CPU)
    (first,) = held.push([torch.zeros(3000)])
    held.pop()
    (second,) = held.push([torch.ones(3000)])
    assert first.data_ptr() == second.data_ptr()
    held.clear()
    (third,) = held.push([torch.ones(3000)])
    assert second.data_ptr() == third.data_ptr()


def test_what_lies_outside_stays():
    held, x = Stack(CPU), torch.ones(2, 3)
    (inside,) = held.push([x])
    tree = held.outside({"in": inside[:, 1:], "out": x, "none": None})
    assert tree["out"] is x
    held.pop()
    held.push([torch.zeros(2, 3)])
    assert (tree["in"] == 1).all()
    assert (inside == 0).all()


def test_what_cannot_be_copied_byte_by_byte_is_handed_on():
    held = Stack(CPU)
    given = [
        torch.ones(3, 3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.empty(0, 3),
        torch.ones(2, dtype=torch.complex64).conj(),
    ]
    assert all(a is b for a, b in zip(held.push(given), given, strict=True))
    assert held.used == 0


def test_nothing_to_pop():
    with pytest.raises(IndexError):
        Stack(CPU).pop()
