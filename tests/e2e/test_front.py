"""A study of two objectives on the whole road, as a user runs it; and a search that tries all."""

import csv
import json
import re
import signal
import socket
import subprocess

import pytest
import requests

from sat_optuna.ticket import Ticket
from tests.studies import STUDY, command, environment, make_study, sat_optuna, trials

SMALL = STUDY.replace("[2, 2, 2]", "[1, 1, 1]").replace("epochs = 2", "epochs = 1")


def study(project, name, search):
    more = search if "[search]" in search else f"[search]\n{search}"
    return make_study(project, name, SMALL.replace("[search]\n", f"{more}\n"))


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    project = tmp_path_factory.mktemp("front")
    search = 'objectives = ["accuracy", "latency_ms"]\nlatency_batch = 2\nsampler = "nsga2"'
    folder = study(project, "front", search)
    sat_optuna("pretrain", "front", cwd=project)
    sat_optuna("search", "front", "--trials", "4", "--no-mlflow", cwd=project)
    kept = (folder / "work" / "latency.json").read_bytes()
    printed = sat_optuna("run", "front", cwd=project).stdout
    assert (folder / "work" / "latency.json").read_bytes() == kept
    return project, folder, printed


def beaten(row, others):
    """Whether another row is no worse in both objectives and better in one."""
    return any(
        o["accuracy"] >= row["accuracy"]
        and o["latency_ms"] <= row["latency_ms"]
        and (o["accuracy"], o["latency_ms"]) != (row["accuracy"], row["latency_ms"])
        for o in others
    )


@pytest.mark.slow
def test_the_front_is_what_no_trial_beats_and_each_of_its_schemes_becomes_a_ticket(road):
    project, folder, printed = road
    rows = trials(project, "front")
    assert len(rows) == 9
    assert [row["scheme"] for row in rows[:2]] == ["0-0-0", "1-1-1"]  # plain and full come first
    front = {row["scheme"] for row in rows if not beaten(row, rows)}
    assert f"front of {len(front)} scheme" in printed
    said = sat_optuna("ticket", "front", "--front", cwd=project).stdout
    assert f"{len(front)} written; next: sat-optuna show " in said
    tickets = [Ticket.load(path) for path in (folder / "tickets").glob("front-*.json")]
    assert {str(ticket.scheme) for ticket in tickets} == front
    costs = {row["scheme"]: row["latency_ms"] for row in rows}
    assert all(ticket.latency_ms == costs[str(ticket.scheme)] for ticket in tickets)
    best = sat_optuna("trials", "front", "--top", "99", "--format", "csv", cwd=project).stdout
    first = list(csv.DictReader(best.splitlines()))[: len(front)]
    assert {row["scheme"] for row in first} == front
    assert float(first[0]["accuracy"]) == max(row["accuracy"] for row in rows)
    report = (folder / "report.md").read_text()
    assert "## The front" in report
    assert "latency of schemes: a model of what each module adds at each block, from " in report
    assert (folder / "figures" / "front.png").exists()
    chosen = Ticket.load(folder / "tickets" / "ticket.json")
    assert str(chosen.scheme) in front
    assert f"| `{chosen.scheme}` |" in report


@pytest.mark.slow
def test_the_dashboard_shows_the_front_and_the_names_of_both_axes(road):
    project, _, _ = road
    rows = trials(project, "front")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with subprocess.Popen(
        command("dashboard", "front", "--port", port),
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            (url, page) = re.findall(r"(http://[\d.:]+)(\S*)", server.stdout.readline())[0]
            studies = requests.get(f"{url}/api/studies", timeout=60).json()["study_summaries"]
            number = next(s["study_id"] for s in studies if s["study_name"] == "front")
            shown = requests.get(f"{url}/api/studies/{number}?after=0", timeout=60).json()
        finally:
            server.send_signal(signal.SIGTERM)
    assert page == f"/dashboard/studies/{number}"
    assert shown["directions"] == ["maximize", "minimize"]
    assert shown["objective_names"] == ["accuracy", "latency_ms"]
    front = {row["number"] for row in rows if not beaten(row, rows)}
    assert {trial["number"] for trial in shown["best_trials"]} >= front
    assert [trial["values"] for trial in shown["trials"]] == [
        [row["accuracy"], row["latency_ms"]] for row in rows
    ]


@pytest.mark.slow
def test_a_share_of_fulls_latency_is_exceeded_by_no_trial(tmp_path):
    # CBAM takes so long that no other work of the machine hides it.
    limit = "max_latency_share = 0.5\nlatency_batch = 2"
    folder = study(tmp_path, "fast", f'[attention]\nkinds = ["cbam"]\n[search]\n{limit}')
    said = sat_optuna("run", "fast", "--no-mlflow", cwd=tmp_path).stdout
    assert "latency: " in said
    model = json.loads((folder / "work" / "latency.json").read_text())["model"]
    plain = model["plain_ms"]["value"]
    full = plain + sum(row[0]["value"] for row in model["increments_ms"])
    rows = trials(tmp_path, "fast")
    assert len({row["scheme"] for row in rows}) >= 2
    assert all(row["latency_ms"] <= plain + 0.5 * (full - plain) + 1e-9 for row in rows)
    assert "no scheme above 50% of full's was proposed" in (folder / "report.md").read_text()
    single = sat_optuna("ticket", "fast", "--front", cwd=tmp_path, code=1).stderr
    assert "study 'fast' has one objective and so no front of this kind; set objecti" in single


@pytest.mark.slow
def test_the_brute_force_sampler_tries_each_scheme_once_and_then_is_done(tmp_path):
    study(tmp_path, "all", 'sampler = "brute-force"')
    sat_optuna("pretrain", "all", cwd=tmp_path)
    sat_optuna("search", "all", "--trials", "3", "--no-mlflow", cwd=tmp_path)
    printed = sat_optuna("search", "all", "--no-mlflow", cwd=tmp_path).stdout
    assert "search: 5 trials now, 8 in all" in printed
    assert len({row["scheme"] for row in trials(tmp_path, "all")}) == 8
    assert "done already, 8 trials" in sat_optuna("search", "all", cwd=tmp_path).stdout
