"""One thread a test process, and no skip that is not for missing hardware."""

import os
import sys

# Before torch is imported anywhere: small networks gain nothing from a second thread, and the
# children that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest

from tests import forks

HARDWARE = "needs CUDA"
_skipped: list[str] = []


@pytest.fixture(autouse=True)
def _seeded():
    """Networks that a test builds without a seed have the same weights in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's database without a run, made once: MLflow takes seconds to make its tables."""
    from sat_optuna.tracking import MLflowLog

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = tmp_path_factory.mktemp("made") / "mlruns"
        MLflowLog(root)
    return root / "mlflow.db"


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=("cuda", "cpu"), default="cuda", help="where tests marked gpu run"
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") == "cpu":
        return
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=HARDWARE))


def pytest_runtest_logreport(report):
    if report.skipped and HARDWARE not in str(report.longrepr):
        _skipped.append(report.nodeid)


def pytest_collectreport(report):
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session):
    forks.close()
    if _skipped and os.environ.get("SAT_OPTUNA_STRICT_SKIPS"):
        session.config.get_terminal_writer().line(
            f"skipped for another reason than missing hardware: {_skipped}", red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
