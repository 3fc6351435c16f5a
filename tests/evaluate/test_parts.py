"""Modules of a user's own: scored in the tree as alone, or refused."""

import re

import pytest
import torch
from torch import nn

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention
from sat_optuna.backbones.cifar_resnet import BasicBlock
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.errors import DataError, SchemeError
from sat_optuna.evaluate import Evaluator
from sat_optuna.evaluate.plan import MemoryLimitError
from tests.evaluate.scoring import alone, chunks, some_images
from tests.networks import tiny_supernet

IMAGES = some_images(23)
CALIBRATION = chunks(7, 5)
CHUNK = 9


class Mine(Attention):
    """A gate from the means of the maps, and of those of the block before."""

    recurrent = True
    sharings = ("block",)

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Linear(channels, channels)

    def forward(self, features, state=None):
        means = self.mix(features.mean((2, 3)))
        return self.reweighted(features, means, state), (means,)

    @staticmethod
    def reweighted(features, means, state):
        before = 0.0 if state is None else state[0]
        return features * torch.sigmoid(means + before)[:, :, None, None]


class Ends(Mine):
    """Each second of a stage hands no state on."""

    def forward(self, features, state=None):
        attended, made = super().forward(features, state)
        return attended, made if state is None else None


class LateNorm(Mine):
    """Its BatchNorm runs only where there is a state."""

    def __init__(self, channels):
        super().__init__(channels)
        self.late = nn.BatchNorm1d(channels)

    def forward(self, features, state=None):
        attended, made = super().forward(features, state)
        return (attended, made) if state is None else (attended, (self.late(made[0] + state[0]),))


class InPlace(Mine):
    def forward(self, features, state=None):
        attended, made = super().forward(features, state)
        return features.copy_(attended), made


class Boxed(Mine):
    def forward(self, features, state=None):
        attended, made = super().forward(features, None)
        return attended, list(made)


class Maps(Mine):
    """Its state is four times as large as the features."""

    def forward(self, features, state=None):
        attended, _ = super().forward(features, None if state is None else (state[0].mean(),))
        return attended, (features.repeat(1, 4, 1, 1),)


@pytest.fixture
def mine(monkeypatch):
    """A supernet with a class of attention that is registered for the test alone."""
    monkeypatch.setattr(ATTENTION, "_entries", dict(ATTENTION._entries))

    def build(cls, *others):
        ATTENTION.add("mine", cls)
        return tiny_supernet(["mine", *others], blocks=(3, 2, 1))

    return build


@pytest.mark.parametrize("cls", [Mine, Ends, LateNorm])
def test_scores_are_those_of_each_scheme_alone(mine, cls):
    net = mine(cls)
    one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK)
    asked = one.all_schemes()[::3]
    got = one.score_many(asked)
    assert got == alone(net, asked, IMAGES, CALIBRATION, CHUNK)
    assert len({result.loss for result in got.values()}) > len(asked) // 2


def test_attention_that_changes_the_features_in_place_is_refused(mine):
    net = mine(InPlace, "se")
    with pytest.raises(
        BackboneError,
        match=r"attention 'mine' at block 0 of network resnet20 changes its input in place, which "
        r"other schemes need too; let it make a new tensor \(x \+ y, not x \+= y\)",
    ):
        Evaluator(net, IMAGES)


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_merge_that_changes_the_features_in_place_is_refused(monkeypatch, grad):
    monkeypatch.setattr(
        BasicBlock, "merge", lambda _self, features, shortcut: features.add_(shortcut).relu()
    )
    with (
        grad(),
        pytest.raises(BackboneError, match="the merge of block 0 of network resnet20 cha"),
    ):
        Evaluator(tiny_supernet(["se"]), IMAGES)


def test_a_state_that_is_no_tuple_of_tensors_is_refused(mine):
    with pytest.raises(BackboneError, match="state that is neither None nor a tuple of tensors"):
        Evaluator(mine(Boxed), IMAGES)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"chunk": -1}, DataError, "chunk = -1, memory = 0 and cache = 0 given; give 0 or more"),
        ({"memory": -5}, DataError, "memory = -5"),
        (
            {"memory": 10**7, "cache": 10**9},
            MemoryLimitError,
            "MB, 954 MB of it for the cache",
        ),
    ],
)
def test_numbers_that_cannot_be_are_one_sentence(given, error, said):
    with pytest.raises(error, match=re.escape(said)):
        Evaluator(tiny_supernet(["se"]), IMAGES, **given)


def test_what_is_no_scheme_is_refused():
    with pytest.raises(
        SchemeError, match=r"'00-000-0' given; give a Scheme, for example Scheme\."
    ):
        Evaluator(tiny_supernet(["se"]), IMAGES).score_many(["00-000-0"])  # type: ignore[list-item]


def test_states_are_part_of_what_a_limit_counts(mine):
    plain, stateful = (
        Evaluator(net, some_images(300), memory=40 * 2**20).chunk
        for net in (tiny_supernet(["se"], blocks=(3, 2, 1)), mine(Maps))
    )
    assert stateful < plain < 100


@pytest.mark.parametrize("limit", [300_000, 600_000, 10**6])
def test_kept_states_are_within_the_bound_of_the_cache(mine, limit):
    one = Evaluator(mine(Maps), IMAGES, cache=limit)
    one.score_all()
    assert 0 < one.cached_bytes <= limit
