"""Two processes train one model under random schemes: the same scheme and gradient in both."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sat_optuna.backbones.cifar_resnet import BasicBlock
from sat_optuna.seeds import seeded
from sat_optuna.slots import attach
from tests.networks import images

STEPS = 4


def _trained(rank: int, meeting: str) -> list[tuple[str, list[torch.Tensor | None]]]:
    """Return the scheme of each step, and the gradients that it left."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    with seeded("model"):
        blocks = nn.Sequential(BasicBlock(2, 4, stride=1), BasicBlock(4, 8, stride=2))
    slots = attach(blocks, attention=["se", "cbam"], seed=0)
    model = DistributedDataParallel(blocks, find_unused_parameters=True)
    made = []
    for step in range(STEPS):
        scheme = slots.random_scheme(7, step)
        model.zero_grad()
        with slots.using(scheme):
            torch.autograd.backward(model(images(3, seed=10 * step + rank)).square().mean())
        grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        made.append((str(scheme), grads))
    distributed.destroy_process_group()
    return made


@pytest.mark.slow
def test_all_processes_of_a_group_agree_on_the_scheme_of_a_step(tmp_path: Path):
    meeting = str(tmp_path / "meeting")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(_trained, [(rank, meeting) for rank in (0, 1)], chunksize=1)
    schemes = [scheme for scheme, _ in first]
    assert schemes == [scheme for scheme, _ in second]
    assert len(set(schemes)) > 1
    for (scheme, ours), (_, theirs) in zip(first, second, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None)
            if mine is not None and other is not None:
                assert mine.isfinite().all(), scheme
                assert torch.equal(mine, other), scheme
        assert any(grad is not None and grad.abs().sum() > 0 for grad in ours)
