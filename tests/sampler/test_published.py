"""The published controller against its stated losses, and its switches."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sat_optuna.sampler.published import Curiosity, PaperController
from tests.sampler.schemes import Array, batch_of


def slot_logs(
    parameters: list[Array],
    sizes: Sequence[int],
    schemes: Array,
    *,
    tanh_c: float | None = None,
    temperature: float = 5.0,
) -> Array:
    """The (B, n) log probabilities of single choices, from the parameters on."""
    bias, weight, offset = parameters
    logits = (np.maximum(bias, 0) @ weight + offset).reshape(len(sizes), -1) / temperature
    if tanh_c is not None:
        logits = tanh_c * np.tanh(logits)
    norms = [math.log(np.exp(row[:size]).sum()) for row, size in zip(logits, sizes, strict=True)]
    return np.array([[logits[i, k] - norms[i] for i, k in enumerate(x)] for x in schemes])


def loss_of(logs: Array, advantages: Array, behaviour: Array | None) -> float:
    """The losses that the docstring states, of (B,) log probabilities of schemes."""
    if behaviour is None:
        return float(-(advantages * logs).mean())
    ratio = np.minimum(np.exp(logs - behaviour), 10.0)
    clipped = np.clip(ratio, 0.9, 1.1)
    return float(-0.1 * np.minimum(ratio * advantages, clipped * advantages).mean())


@pytest.mark.parametrize("replay", [False, True], ids=["online", "replay"])
@pytest.mark.parametrize(
    ("sizes", "switches"),
    [
        ((2, 2, 2, 2), {}),
        ((2, 4, 3), {}),
        ((2, 4, 3), {"tanh_c": 1.5, "temperature": 0.7}),
    ],
    ids=str,
)
def test_gradient_is_that_of_its_stated_losses(sizes, switches, replay):
    controller = PaperController(sizes, seed=3, **switches)
    rng = np.random.default_rng(0)
    schemes = np.stack([rng.integers(size, size=6) for size in sizes], axis=1)
    advantages = rng.normal(size=6)
    behaviour = None
    if replay:  # ratios inside the clip, on both sides of it, and cut; none at a corner
        shift = np.array([0.0, 0.05, -0.05, 0.3, -0.3, -3.0])
        behaviour = controller.policy.log_prob(schemes) + shift
    got = controller.gradient(schemes, advantages, behaviour)
    for which, parameter in enumerate(controller.parameters):
        for index in np.ndindex(parameter.shape):
            if which == 1 and index[0] % 10:
                continue  # a tenth of the large matrix is enough
            ends = []
            for sign in (1, -1):
                moved = [p.copy() for p in controller.parameters]
                moved[which][index] += sign * 1e-5
                logs = slot_logs(moved, sizes, schemes, **switches).sum(axis=1)
                ends.append(loss_of(logs, advantages, behaviour))
            slope = (ends[0] - ends[1]) / 2e-5
            assert got[which][index] == pytest.approx(slope, abs=2e-9, rel=1e-5)


def test_curiosity_is_a_schemes_own_and_fades_with_visits():
    curiosity = Curiosity((2,) * 8, seed=0, learning_rate=0.05)
    often, never = np.zeros((1, 8), dtype=np.int64), np.ones((1, 8), dtype=np.int64)
    for _ in range(50):
        curiosity.bonus(often)
    bonus = curiosity.bonus(np.concatenate([often, never]))
    assert bonus[1] > 10 * bonus[0]


def test_curiosity_trains_on_the_gradient_of_its_own_bonus():
    """One step of Adam from rest goes against the sign of each derivative, by the rate."""
    schemes = np.array([[0, 1, 2], [1, 0, 0]])

    def fresh() -> Curiosity:
        return Curiosity((2, 2, 3), seed=1, learning_rate=0.05)

    target = fresh()
    before = [p.copy() for p in target.parameters]
    target.bonus(schemes)
    for which, start in enumerate(before):
        step = target.parameters[which] - start
        for index in [(0,) * start.ndim, tuple(size - 1 for size in start.shape)]:
            ends = []
            for sign in (1, -1):
                probe = fresh()
                probe.parameters[which][index] += sign * 1e-5
                ends.append(float(probe.bonus(schemes).mean()))
            slope = (ends[0] - ends[1]) / 2e-5
            assert abs(slope) < 1e-7 or step[index] == pytest.approx(-0.05 * np.sign(slope), 1e-3)


def test_the_controller_learns_the_sign_of_each_choice():
    controller = PaperController((2,) * 6, seed=0)
    weights = np.array([3.0, -3.0, 3.0, -3.0, 3.0, -3.0])
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 6), dtype=np.int64)
    for _ in range(60):
        policy = controller.policy
        schemes = np.stack([policy.draw(rng, nothing, {}) for _ in range(3)])
        controller.tell(batch_of(schemes, schemes @ weights, policy.log_prob(schemes)))
    assert controller.policy.probabilities.argmax(axis=1).tolist() == [1, 0, 1, 0, 1, 0]


def test_the_controller_ignores_a_batch_without_rewards():
    controller = PaperController((2, 2), seed=0)
    before = controller.policy.probabilities
    controller.tell(batch_of([[0, 0]], [np.nan]))
    np.testing.assert_array_equal(controller.policy.probabilities, before)


def test_switches_turn_their_parts_off():
    """Without curiosity a step whose rewards are equal moves nothing."""
    schemes = np.array([[0, 1], [1, 1]])
    for rnd in (False, True):
        controller = PaperController((2, 2), seed=0, rnd=rnd, replay=False)
        before = controller.policy.probabilities
        controller.tell(batch_of(schemes, [3.0, 3.0]))
        assert (controller.policy.probabilities != before).any() == rnd
    with_replay, without = (PaperController((2, 2), seed=0, replay=on) for on in (True, False))
    for step in range(1, 21):
        with_replay.tell(batch_of(schemes, [step, step + 1.0]))
        without.tell(batch_of(schemes, [step, step + 1.0]))
        same = with_replay.policy.probabilities == without.policy.probabilities
        assert same.all() == (step < 10)  # the tenth step is the first that replays one
    for decay, baseline in ((0.0, 5.0), (1.0, 1.0), (0.75, 2.0)):
        controller = PaperController((2, 2), seed=0, rnd=False, ema_decay=decay)
        controller.tell(batch_of(schemes, [1.0, 1.0]))
        controller.tell(batch_of(schemes, [5.0, 5.0]))
        assert controller.baseline == baseline


def published_loss(logs: Array, ratios: Array, advantages: Array) -> float:
    """The smaller of the two sums, with the ratios held."""
    both = (ratios, np.clip(ratios, 0.9, 1.1))
    return float(-0.1 * min((r * logs * advantages[:, None]).sum() for r in both) / len(logs))


def test_gradient_with_the_published_defects_is_that_of_the_published_loss():
    sizes = (2, 4, 3)
    controller = PaperController(sizes, seed=3, repaired=False)
    rng = np.random.default_rng(0)
    schemes = np.stack([rng.integers(size, size=6) for size in sizes], axis=1)
    advantages = rng.normal(size=6)
    old = controller.policy.slot_log_probs(schemes) + rng.normal(scale=0.3, size=schemes.shape)
    got = controller.gradient(schemes, advantages, old)
    ratios = np.exp(slot_logs(controller.parameters, sizes, schemes) - old)
    for which, index in [(0, (0,)), (0, (7,)), (1, (3, 5)), (2, (0,)), (2, (6,)), (2, (9,))]:
        ends = []
        for sign in (1, -1):
            moved = [p.copy() for p in controller.parameters]
            moved[which][index] += sign * 1e-5
            ends.append(published_loss(slot_logs(moved, sizes, schemes), ratios, advantages))
        slope = (ends[0] - ends[1]) / 2e-5
        assert got[which][index] == pytest.approx(slope, abs=2e-9, rel=1e-5)


def test_published_defects_scramble_and_leave_curiosity_out_of_what_is_stored():
    controller = PaperController((2, 3), seed=0, repaired=False)
    controller.tell(batch_of([[1, 2], [0, 1], [1, 0]], [1.0, 2.0, 3.0]))
    schemes, rewards, behaviour = controller.stored[0]
    assert schemes.tolist() == [[1, 0], [1, 2], [1, 0]]  # 1 0 1 2 1 0, slot by slot
    assert rewards.tolist() == [1.0, 2.0, 3.0]
    assert behaviour.shape == (3, 2)
