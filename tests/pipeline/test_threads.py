"""A study computes with the threads that its study.toml says, whatever its caller has."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import sat_optuna as sat
from sat_optuna.errors import StudyError
from sat_optuna.pipeline.threads import computing_with
from sat_optuna.training.checkpoint import read_record
from tests.studies import STUDY, environment, make_study


def counts():
    """The threads of torch, and of each BLAS library."""
    np.ones((2, 2)) @ np.ones((2, 2))
    pools = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return torch.get_num_threads(), pools


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_is_loaded_already_is_told_and_told_back(threads):
    before = counts()
    with computing_with(threads):
        assert counts() == (threads, {threads})
        with pytest.raises(ZeroDivisionError), computing_with(threads + 1):
            raise ZeroDivisionError
        assert counts() == (threads, {threads})
    assert counts() == before


FRESH = """
import json, os
from sat_optuna.pipeline.threads import computing_with
with computing_with(1):
    import numpy, torch
    from threadpoolctl import threadpool_info
    child = os.environ["OMP_NUM_THREADS"]
    within = torch.get_num_threads(), [p["num_threads"] for p in threadpool_info()], child
print(json.dumps([within, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]]))
"""


def test_what_is_loaded_meanwhile_starts_with_so_many():
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        env=environment(OMP_NUM_THREADS="2"),
        capture_output=True,
        text=True,
        check=True,
    )
    (torch_within, pools, child), after, variable = json.loads(done.stdout)
    assert (torch_within, set(pools), child) == (1, {1}, "1")
    assert (after, variable) == (1, "2")


def test_a_study_keeps_to_its_threads(tmp_path):
    folder = make_study(tmp_path)
    with computing_with(3):  # as of a caller who uses many
        trained = sat.open_study(folder).pretrain()
    assert read_record(trained.path)["environment"]["threads"] == 1
    (folder / "study.toml").write_text(f"threads = 2\n{STUDY}")
    with pytest.raises(StudyError, match=r"threads: 1 is stored, 2 is given; restore that"):
        sat.open_study(folder).pretrain()
    more = make_study(tmp_path, "more", f"threads = 2\n{STUDY}")
    assert read_record(sat.open_study(more).pretrain().path)["environment"]["threads"] == 2
