"""One small study, run by the command line; its two servers; and a browser that keeps pictures."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sat_optuna.ticket import Ticket
from tests.studies import command, environment, make_study, sat_optuna

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path("build/screenshots").resolve()  # kept with what a test run leaves
SECONDS = 90  # to wait for what a page shows; MLflow polls, so no page is ever idle

# The first block carries SE and the second none: ticket, plain and full are three networks.
STUDY = """
[data]
limit = 300
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[train]
batch = 32
[pretrain]
epochs = 1
[search]
trials = 4
batch = 2
calibration = 32
fixed = { "s1.b00" = "se", "s2.b00" = "none" }
[retrain]
epochs = 2
seeds = [0, 1, 2, 3]
workers = 2
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                reason = "needs Chromium; on Debian: apt-get install chromium"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has gone the whole road."""
    project = tmp_path_factory.mktemp("seen")
    make_study(project, text=STUDY)
    sat_optuna("run", "tiny", cwd=project)
    return project


@pytest.fixture(scope="session")
def tickets(project: Path) -> dict[str, Ticket]:
    """The networks that every study retrains."""
    folder = project / "studies" / "tiny" / "tickets"
    return {role: Ticket.load(folder / f"{role}.json") for role in ("ticket", "plain", "full")}


Serve = Callable[..., list[str]]


@pytest.fixture(scope="session")
def serve(project: Path) -> Iterator[Serve]:
    """Start a command that serves, and return the lines it prints until it listens."""
    with contextlib.ExitStack() as stack:

        def started(*arguments: str, lines: int = 1) -> list[str]:
            server = stack.enter_context(
                subprocess.Popen(
                    command(*arguments),
                    cwd=project,
                    env=environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(server.wait, 60)
            stack.callback(server.terminate)
            assert server.stdout is not None
            assert server.stderr is not None
            printed = [server.stdout.readline().strip() for _ in range(lines)]
            assert all(printed), server.stderr.read()
            return printed

        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container's root may have no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page whose last state is kept as a picture."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * SECONDS)
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
    page.close()
