"""What every registered attention module keeps to, tested by being registered.

timm's are among them where timm is installed, and the constant controls, which are not listed.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention import ATTENTION, DEFAULT_SHARING, build_attention
from sat_optuna.attention.contract import Attention, full_precision, whole_number
from sat_optuna.attention.norm import SharedBatchNorm
from sat_optuna.seeds import seeded
from tests.networks import OURS, images, stirred_module

CHANNELS = 16
# Parameters that two chained calls leave without gradient, and why.
BEFORE_NORM = "a bias before a norm, which takes it away"
SHIFT = "a bias before a softmax, which knows no shift"
UNREACHED: dict[str, dict[str, str]] = {
    "bam": {"excite.bias": BEFORE_NORM, "spatial.6.bias": BEFORE_NORM},
    "gc": {"focus.bias": SHIFT},
    "timm:gc": {"module.conv_attn.bias": SHIFT},
    "timm:gca": {"module.conv_attn.bias": SHIFT},
    "timm:nl": {
        "module.p.bias": SHIFT,
        "module.g.bias": "weights that sum to 1 make it a bias before a norm",
        "module.z.bias": BEFORE_NORM,
    },
}

KINDS = (*ATTENTION.names(), "constant:se", "constant:gc", "constant:dia")
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(kind: str) -> Attention:
    # A seed under which timm's lcbam, of one hidden unit here, is not dead on all rows.
    with seeded("contract", 1, kind):
        return build_attention(kind, CHANNELS)


def features(count: int = 4, size: int = 5, seed: int = 0) -> Tensor:
    return images(count, seed=seed, shape=(CHANNELS, size, size))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_dtype_and_device_are_kept(kind, dtype):
    module = built(kind).to(dtype)
    x = features().to(dtype)
    y, state = module(x)
    y2, _ = module(x, state)
    for out in (y, y2):
        assert (out.shape, out.dtype, out.device) == (x.shape, dtype, x.device)
        assert bool(out.isfinite().all())


@every_kind
def test_features_are_not_changed_in_place(kind):
    x = features()
    before = x.clone()
    built(kind)(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@every_kind
def test_gradient_reaches_every_parameter_over_two_chained_calls(kind):
    module = built(kind).double()
    if kind.startswith("timm:"):
        stirred_module(module)  # some of timm's last layers start at zero
    x = features(count=16).double().requires_grad_()
    first, state = module(x)
    second, _ = module(first, state)
    second.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    reach = {
        name: 0.0 if value.grad is None else float(value.grad.abs().max())
        for name, value in module.named_parameters()
    }
    # Where a gradient is zero by the equations, rounding leaves some of it.
    least = 1e-9 * max(reach.values(), default=0.0)
    assert {name for name, size in reach.items() if size <= least} == {*UNREACHED.get(kind, {})}


@every_kind
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_values_and_gradients_are_finite_at_one_pixel_and_on_flat_maps(kind, mode):
    module = built(kind).train(mode)
    for x in (
        features(size=1),
        torch.full((3, CHANNELS, 4, 4), 0.5),
        torch.zeros(2, CHANNELS, 3, 3),
    ):
        x.requires_grad_()
        module.zero_grad()
        y, _ = module(x)
        y.sum().backward()
        assert x.grad is not None
        grads = [x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]
        assert all(bool(value.isfinite().all()) for value in (y, *grads))


@every_kind
def test_rows_do_not_see_each_other_and_a_batch_of_one_will_do(kind):
    module = built(kind).eval()
    x = features()
    with torch.no_grad():
        y, state = module(x)
        z, _ = module(y, state)
        for row in range(len(x)):
            alone, its_state = module(x[row : row + 1])
            then, _ = module(alone, its_state)
            for one, many in ((alone, y), (then, z)):
                scale = max(1.0, float(many.abs().max()))
                assert (one - many[row : row + 1]).abs().max() <= 1e-6 * scale


@every_kind
def test_state_dict_brings_the_function_back(kind):
    module, other = built(kind), build_attention(kind, CHANNELS)
    other.load_state_dict(module.state_dict())
    x = features()
    torch.testing.assert_close(other.eval()(x)[0], module.eval()(x)[0], rtol=0, atol=0)


@every_kind
def test_eval_is_deterministic(kind):
    module = built(kind).eval()
    x = features()
    torch.testing.assert_close(module(x)[0], module(x)[0], rtol=0, atol=0)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_autocast_keeps_the_dtype_and_nearly_the_values(kind, dtype):
    module = built(kind).eval()
    x = features().to(dtype)
    exact, state = module(x.float())
    exact, _ = module(exact, state)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = module(x)
        y, _ = module(y, state)
    assert y.dtype == dtype
    scale = max(1.0, float(exact.detach().abs().max()))  # timm's lambda makes large numbers
    torch.testing.assert_close(y.float(), exact, rtol=0.03, atol=0.03 * scale)


@every_kind
def test_channels_last_is_kept_and_changes_no_value(kind):
    module = built(kind).eval()
    x = features()
    y, _ = module(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, module(x)[0])


@every_kind
def test_state_is_carried_by_recurrent_modules_alone(kind):
    module = built(kind)
    given = (torch.ones(4, CHANNELS), torch.ones(4, CHANNELS))
    assert (module(features())[1] is None) == (not module.recurrent)
    assert (module(features(), given)[1] is given) == (not module.recurrent)


@every_kind
def test_the_same_seed_draws_the_same_weights(kind):
    pairs = zip(built(kind).parameters(), built(kind).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@every_kind
def test_a_stage_may_own_it_somehow(kind):
    cls = ATTENTION.get(kind)
    assert cls.sharings in {("block", "stage"), ("block",), ("stage",)}
    assert cls.sharings[0] == DEFAULT_SHARING.get(kind, "block")


@every_kind
def test_what_is_shared_keeps_statistics_for_each_block(kind):
    cls = ATTENTION.get(kind)
    has_norm = any(isinstance(module, _BatchNorm) for module in built(kind).modules())
    assert cls.per_block_statistics == (has_norm and "stage" in cls.sharings)
    if cls.per_block_statistics:
        module = build_attention(kind, CHANNELS, blocks=["3", "5"])
        norms = [m for m in module.modules() if isinstance(m, SharedBatchNorm)]
        assert norms
        assert all([*norm.statistics] == ["3", "5"] for norm in norms)


@every_kind
def test_it_says_where_it_was_published(kind):
    assert ATTENTION.get(kind).paper


@pytest.mark.parametrize("kind", OURS)
def test_a_batch_of_one_will_do_in_train_mode_too(kind):
    # Not timm's: PyTorch's BatchNorm refuses a single value a channel.
    for size in (1, 5):
        y, _ = built(kind)(features(count=1, size=size))
        assert bool(y.isfinite().all())


def test_the_contract_itself_computes_nothing():
    with pytest.raises(NotImplementedError):
        Attention()(features())


def test_half_precision_is_widened_and_double_kept():
    for given, wanted in (("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")):
        x = torch.zeros(1, dtype=getattr(torch, given))
        assert full_precision(x).dtype == getattr(torch, wanted)


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, np.int64(2)])
def test_whole_numbers_are_python_ints_from_one_up(value):
    with pytest.raises(ValueError, match=r"se has reduction = .*whole number that is at least 1"):
        whole_number("se", "reduction", value)
