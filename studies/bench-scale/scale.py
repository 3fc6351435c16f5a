"""What a long search costs beside its scoring: python scale.py [OPTIONS].

A study of 1,000 trials over the 54 blocks of a ResNet-110 is made, whose scores are computed from
the schemes and cost nothing, and each trial is logged to MLflow. Then a user's first looks are
timed: `sat-optuna trials`, the dashboard's first answer, MLflow's first page, and both pages in
Chromium (Playwright drives it: pip install 'sat_optuna[test]', apt-get install chromium). The
same command goes on after any end: what is in scale.json is not measured again, but with
`--again`. `--report` writes table.md alone.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sat_optuna.evaluate import Evaluation
    from sat_optuna.scheme import Scheme

__all__ = ["main", "table"]

HERE = Path(__file__).parent
WORK = HERE / "work"
STUDY = WORK / "studies" / "scale"
TRIALS, BATCH = 1_000, 8
AT, NEAR = (100, 500, 1_000), 50  # where a trial's cost is looked at: the mean of so many before
PACKAGES = ("optuna", "optuna-dashboard", "mlflow", "sqlalchemy", "torch")
GOALS = {  # of the project, on an idle machine
    "search, a trial": "50 ms",
    "MLflow, a trial": "20 ms of CPU",
    "trials --top 20": "3 s",
    "dashboard, the page": "10 s",
    "MLflow, first page": "5 s",
    "MLflow, the page": "5 s",
}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clock:
    """CPU seconds of a process, and seconds."""

    cpu: float
    wall: float

    def __sub__(self, other: "Clock") -> "Clock":
        return Clock(self.cpu - other.cpu, self.wall - other.wall)

    def row(self, what: str, *, trials: int, each: int = 1, **more: Any) -> Row:
        """Return a row of a measurement: of one of `each` equal parts, in milliseconds."""
        cpu, wall = (round(1000 * t / each, 1) for t in (self.cpu, self.wall))
        return {"what": what, "trials": trials, "cpu_ms": cpu, "wall_ms": wall, **more}


def here() -> Clock:
    """Return this process's time."""
    return Clock(time.process_time(), time.perf_counter())


def children() -> Clock:
    """Return the time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Clock(used.ru_utime + used.ru_stime, time.perf_counter())


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    path = HERE / "scale.json"
    held: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not asked.report:
        on = machine()
        if asked.again or held.get("machine") != on or not (STUDY / "study.db").exists():
            held = {"machine": on, "parts": {}}
            shutil.rmtree(WORK, ignore_errors=True)
        for name, measure in PARTS.items():
            if name not in held["parts"]:
                sys.stderr.write(f"{name} ...\n")
                held["parts"][name] = measure()
                write_text(path, json.dumps(held, indent=1) + "\n")
    write_text(HERE / "table.md", table(held))


def machine() -> Row:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def load() -> float:
    """Return how many processes want a core, on average over the last minute."""
    return round(os.getloadavg()[0], 1)


# ---- a search and its log ----


def score(scheme: "Scheme") -> "Evaluation":
    """Return a made-up evaluation: some blocks help, some harm, and the rest is by chance."""
    from sat_optuna.evaluate import Evaluation

    digest = hashlib.sha256(str(scheme).encode()).digest()
    chance = int.from_bytes(digest[:4], "big") / 2**32
    blocks = sum((at % 5 - 1.5) * choice for at, choice in enumerate(scheme.choices))
    accuracy = 50 + 10 * blocks / len(scheme.choices) + chance
    return Evaluation(accuracy=accuracy, loss=(100 - accuracy) / 25, n=10_000)


class MadeUp:
    """Stands in for the evaluator of an objective."""

    def score_many(self, schemes: "Sequence[Scheme]") -> "dict[Scheme, Evaluation]":
        """Return a made-up evaluation of each."""
        return {scheme: score(scheme) for scheme in schemes}

    score = staticmethod(score)


def searched() -> list[Row]:
    """Make the study: cost of a trial where there are few and where there are many."""
    import torch

    import sat_optuna as sat
    from sat_optuna.config.config import StudyConfig
    from sat_optuna.config.template import write_config
    from sat_optuna.events import Event
    from sat_optuna.pipeline.mlflow_log import StudyLog
    from sat_optuna.pipeline.progress import ProgressBar
    from sat_optuna.search.study import build_sampler, create_study, run_trials

    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "mlruns").mkdir(parents=True)
    config = StudyConfig()
    network = replace(config.network, backbone="resnet110")
    search = replace(config.search, trials=TRIALS, batch=BATCH)
    write_config(STUDY / "study.toml", replace(config, network=network, search=search))
    data = sat.Split.from_arrays(torch.rand(100, 3, 8, 8), torch.arange(100) % 10)
    net = sat.Supernet("resnet110", attention=["se"], in_channels=3, classes=10, seed=0)
    objective = sat.SupernetObjective(net, data, calibration=32)
    objective.evaluator = MadeUp()  # type: ignore[assignment]
    folder = sat.open_study(STUDY)
    sampler = build_sampler("policy", seed=0, batch=BATCH)
    study = create_study(folder.storage, folder.search_name, config=folder.config, sampler=sampler)
    show, times = ProgressBar(), [here()]
    rows: list[Row] = []

    def on_trial(trial: Any) -> None:
        show(Event(step="search", done=trial.number + 1, total=TRIALS, made=trial))
        times.append(here())
        if (done := len(times) - 1) in AT:
            took = times[-1] - times[-1 - NEAR]
            rows.append(took.row("search, a trial", trials=done, each=NEAR, load=load()))

    with StudyLog(folder).trials(study) as log_trial:
        run_trials(
            study,
            objective,
            trials=TRIALS,
            batch=BATCH,
            stages=objective.stages,
            kinds=objective.kinds,
            on_batch=objective.score_ahead,
            on_trial=on_trial,
        )
        for number, trial in enumerate(study.get_trials(deepcopy=False), start=1):
            times.append(here())
            log_trial(trial)
            if number in (AT[0], AT[-1]):
                took = here() - times[-NEAR]
                rows.append(took.row("MLflow, a trial", trials=number, each=NEAR, load=load()))
    return rows


# ---- what a user looks at first ----


def listed() -> list[Row]:
    """Time `sat-optuna trials --top 20` in a process of its own."""
    before = children()
    subprocess.run(
        command("trials", "scale", "--top", "20"), cwd=WORK, check=True, stdout=subprocess.DEVNULL
    )
    return [(children() - before).row("trials --top 20", trials=TRIALS, load=load())]


def command(*arguments: str) -> list[str]:
    """Return a command line of ours."""
    return [sys.executable, "-m", "sat_optuna", *arguments]


def browsed() -> list[Row]:
    """Time the dashboard's first answer: ours, and of what of it Optuna would hold without us."""
    plain = WORK / "plain.db"
    plain.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(STUDY / "study.db")) as ours,
        closing(sqlite3.connect(plain)) as to,
    ):
        ours.backup(to)  # what is in the file's log too
    with closing(sqlite3.connect(plain)) as connection, connection:
        for part in ("trial_user", "trial_system", "study_user", "study_system"):
            connection.execute(f"DELETE FROM {part}_attributes")
    servers = {
        "sat-optuna dashboard": lambda port: command("dashboard", "scale", "--port", port),
        "optuna-dashboard": lambda port: alone(STUDY / "study.db", port),
        "optuna-dashboard, without our attributes": lambda port: alone(plain, port),
    }
    return [first_answer(name, line) for name, line in servers.items()]


def alone(db: Path, port: str) -> list[str]:
    """Return the command line of Optuna's own dashboard, in one process."""
    theirs = str(Path(sys.executable).with_name("optuna-dashboard"))
    return [theirs, f"sqlite:///{db}", "--port", port, "--server", "wsgiref"]


def first_answer(name: str, line: "Callable[[str], list[str]]") -> Row:
    """Start a dashboard and ask it for a study, as its page does."""
    port = free_port()
    with serving(line(port)) as pid:
        studies = json.loads(asked(port, "studies"))["study_summaries"]
        number = next(one["study_id"] for one in studies if one["study_name"] == "scale")
        before = Clock(used_by(pid), time.perf_counter())
        answer = asked(port, f"studies/{number}?after=0")
        took = Clock(used_by(pid), time.perf_counter()) - before
    what, size = f"dashboard, first answer: {name}", round(len(answer) / 1e6, 1)
    return took.row(what, trials=TRIALS, megabytes=size, load=load())


def free_port() -> str:
    """Return a port of this machine on which nothing listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def serving(line: list[str]) -> "Iterator[int]":
    """Run a server while the block runs."""
    with subprocess.Popen(
        line, cwd=WORK, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield server.pid
        finally:
            server.send_signal(signal.SIGTERM)


def used_by(pid: int) -> float:
    """Return the CPU seconds of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asked(port: str, what: str) -> bytes:
    """Ask a dashboard, until it answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 60
    while True:
        try:
            with opener.open(f"http://127.0.0.1:{port}/api/{what}") as answer:
                return bytes(answer.read())
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def ranked() -> list[Row]:
    """Time what MLflow's page asks its store for: the best tickets, and the newest runs."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from sat_optuna.tracking import store_uri

    client = MlflowClient(store_uri(WORK / "mlruns"))
    (experiment,) = (e for e in client.search_experiments() if e.name == "scale")
    for number in range(5):
        tags = {"sat.kind": "summary", "scheme": f"network {number}"}
        run = client.create_run(experiment.experiment_id, tags=tags)
        metric = Metric("test_accuracy", 90.0 + number, 0, 0)
        client.log_batch(run.info.run_id, metrics=[metric])
        client.set_terminated(run.info.run_id)
    queries: dict[str, Row] = {
        "the best tickets": {
            "filter_string": "tags.`sat.kind` = 'summary'",
            "order_by": ["metrics.test_accuracy DESC"],
        },
        "the newest 100 runs": {"order_by": ["attributes.start_time DESC"]},
    }
    rows = []
    for name, query in queries.items():
        before = here()
        client.search_runs([experiment.experiment_id], max_results=100, **query)
        what = f"MLflow, first page: {name}"
        rows.append((here() - before).row(what, trials=TRIALS, load=load()))
    return rows


def painted() -> list[Row]:
    """Time both pages in a browser: from the address to what a user came for.

    That is on the dashboard a graph of all trials, on MLflow the best ticket. Where there is no
    Chromium there is no row.
    """
    if (chromium := shutil.which("chromium")) is None:
        sys.stderr.write("no Chromium here, so the pages are not timed\n")
        return []
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        drawn = f"document.querySelectorAll('.scatterlayer .point').length >= {TRIALS}"
        for what, line, awaited in (
            ("dashboard, the page", ("dashboard", "scale"), drawn),
            ("MLflow, the page", ("ui",), "document.body.innerText.includes('network 4')"),
        ):
            with served(*line) as (pid, link):
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                before = Clock(used_by(pid), time.perf_counter())
                page.goto(link)
                page.wait_for_function(awaited, timeout=120_000)
                took = Clock(used_by(pid), time.perf_counter()) - before
                page.close()
            rows.append(took.row(f"{what}, in Chromium", trials=TRIALS, load=load()))
        browser.close()
    return rows


@contextmanager
def served(*arguments: str) -> "Iterator[tuple[int, str]]":
    """Run a command that serves while the block runs: its process, and the study's link."""
    with subprocess.Popen(
        command(*arguments, "--port", free_port()), cwd=WORK, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            for printed in server.stdout or ():
                if link := re.search(r"http\S+(/studies/|runs\?)\S+", printed):
                    yield server.pid, link[0]
                    return
            raise RuntimeError(f"{arguments[0]} ended before it printed the study's link")
        finally:
            server.send_signal(signal.SIGTERM)


PARTS: dict[str, Callable[[], list[Row]]] = {
    "search": searched,
    "trials": listed,
    "dashboard": browsed,
    "mlflow": ranked,
    "browser": painted,
}


def table(held: Row) -> str:
    """Return the figures as a page of Markdown."""
    on = held["machine"]
    versions = ", ".join(f"{name} {on[name]}" for name in ("python", *PACKAGES))
    lines = [
        "# What a long search costs beside its scoring",
        "",
        f"A ResNet-110 with 54 blocks, SQLite, made-up scores. {on['processor']}, {on['cores']} "
        f"cores; {versions}. Milliseconds; load is how many processes wanted a core then, and "
        "where it is above the number of cores the wall time says little.",
        "",
        "| what | trials in the study | CPU ms | wall ms | MB | load | goal |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in (row for rows in held["parts"].values() for row in rows):
        cpu, wall = f"{row['cpu_ms']:,.0f}", f"{row['wall_ms']:,.0f}"
        goal = next((g for what, g in GOALS.items() if row["what"].startswith(what)), "")
        lines.append(
            f"| {row['what']} | {row['trials']:,} | {cpu} | {wall} | "
            f"{row.get('megabytes', '')} | {row['load']} | {goal} |"
        )
    return "\n".join([*lines, "", "Made by `scale.py` in this folder, from scale.json.", ""])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
