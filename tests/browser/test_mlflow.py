"""In the MLflow UI: which scheme has which accuracy, parameters and latency, in 30 seconds?"""

import re
from statistics import fmean
from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def link(serve: Any) -> str:
    """The link to the study's table that `sat-optuna ui` prints."""
    url, table = serve("ui", "--port", "5713", lines=2)
    assert url == "MLflow: http://127.0.0.1:5713 (Ctrl-C ends it)"
    name, _, link = str(table).partition(": ")
    assert name == "tiny"
    assert link.startswith("http://127.0.0.1:5713/#/experiments/")
    return link


def opened(page: Any, link: str, name: str) -> Any:
    """Open a table of runs, and return what gives the row of a run, once they are drawn."""

    def row(name: str) -> Any:  # a row is drawn in parts; this is the one that holds the name
        link = page.get_by_role("link", name=re.compile(rf"^{name}\b"))
        return page.get_by_role("row").filter(has=link)

    page.goto(link)
    row(name).wait_for()
    return row


def text_of(page: Any, row: Any) -> str:
    """Return all that a row shows, beside its name too."""
    index = row.get_attribute("row-index")
    return " ".join(page.locator(f"[row-index='{index}']").all_inner_texts())


def test_the_printed_link_answers_the_30_second_question(page, link, tickets):
    row = opened(page, link, "ticket")
    for role, ticket in tickets.items():
        shown = text_of(page, row(role)).split()
        mean = fmean(score.value for score in ticket.scores if score.split == "test")
        for value in (mean, ticket.params, ticket.latency_ms):
            assert f"{round(value, 4):g}" in shown, (role, shown)
        assert shown.count(str(ticket.scheme)) == 2  # in the name, and in a column of its own
    columns = page.get_by_role("columnheader").all_inner_texts()
    assert {"test_accuracy", "parameters", "latency_ms", "scheme"} <= set(columns)
    names = page.get_by_role("row").get_by_role("link").all_inner_texts()
    accuracies = [float(text_of(page, row(name.split()[0])).split()[-2]) for name in names]
    assert accuracies == sorted(accuracies, reverse=True)
    assert page.get_by_text("Test accuracy from scratch: ticket").count() == 1


def test_a_ticket_opens_with_its_verdicts_and_its_seeds(page, link):
    row = opened(page, link, "ticket")
    row("ticket").get_by_role("link").click()
    for seed in range(4):
        page.get_by_role("link", name=f"seed {seed} ticket", exact=True).wait_for()
    page.get_by_text(re.compile("accuracy kept: ")).first.wait_for()
    page.get_by_text("cued-digits").or_(page.get_by_text("mnist5k")).first.wait_for()


def test_two_tickets_are_compared_in_filled_parallel_coordinates(page, link):
    row = opened(page, link, "ticket")
    for role in ("ticket", "full"):
        row(role).locator("input.ag-checkbox-input").click(force=True)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    page.locator(".axis-title").first.wait_for()
    axes = page.locator(".axis-title").all_text_contents()
    assert axes == ["role", "s2.b00", "s3.b00", "test_accuracy"]  # what differs, and the result


def test_the_trials_are_nested_in_the_search_and_begin_with_their_numbers(page, link, project):
    row = opened(page, link.partition("&viewStateShareKey")[0], "search")
    assert row("#000").count() == 0
    row("search").get_by_role("button").first.click()
    for number in range(4):
        row(f"#00{number}").wait_for()


def test_the_tickets_network_is_a_model_and_the_best_of_its_study(page, link, tickets):
    server, _, experiment = link.partition("/runs?")[0].partition("/#/experiments/")
    page.goto(f"{server}/#/experiments/{experiment}/models?workflowType=machine_learning")
    name = re.compile(rf"^ticket.* {tickets['ticket'].scheme}$")
    page.get_by_role("link", name=name).first.wait_for()
    page.get_by_text("Ready").first.wait_for()
    page.goto(f"{server}/#/models")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="tiny", exact=True))
    row.wait_for()
    assert re.search(r"@\s*best\s*: Version 1", row.inner_text())
