"""What optuna-dashboard shows of a study, beside Optuna's own graphs."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def link(serve: Any) -> str:
    """The link to the study's page that `sat-optuna dashboard` prints."""
    (printed,) = serve("dashboard", "tiny", "--port", "8713")
    found = re.fullmatch(
        r"optuna-dashboard: (http://127\.0\.0\.1:8713/\S+) \(Ctrl-C ends it\)", printed
    )
    assert found
    return found[1]


def test_the_list_names_the_study_and_its_control(page, link):
    page.goto(link.partition("/studies/")[0])
    page.get_by_text(re.compile(r"\d\. tiny$")).wait_for()
    page.get_by_text(re.compile(r"\d\. tiny\.random$")).wait_for()


def test_the_page_of_a_study_has_our_graphs_the_ticket_and_its_files(page, link, tickets):
    page.goto(link)
    for title in (
        "Validation accuracy against cost",
        "Which blocks the search connects",
        "What attention does at each block",
    ):
        page.get_by_text(title).wait_for()
    shown = page.inner_text("body")
    for told in ("ticket.png", "trials.csv", "reward", f"[scheme: {tickets['ticket'].scheme}]"):
        assert told in shown
    assert "Objective 0" not in shown
    picture = page.get_by_role("img").or_(page.locator("img")).first
    picture.wait_for()


def test_the_note_answers_the_30_second_question(page, link, tickets):
    page.goto(f"{link}/note")
    page.get_by_role("heading", name="Verdicts").wait_for()
    for role, ticket in tickets.items():
        row = page.get_by_role("row").filter(has_text=re.compile(rf"^{role}\b")).inner_text()
        mean = sum(s.value for s in ticket.scores if s.split == "test") / 4
        assert ticket.latency_ms is not None
        for text in (
            ticket.scheme,
            f"{mean:.2f} %",
            f"{ticket.params:,}",
            f"{ticket.latency_ms:.2f}",
        ):
            assert str(text) in row, (text, row)


def test_a_trial_is_drawn(page, link, tickets):
    page.goto(f"{link}/trials?numbers=0")
    page.get_by_text("stage 1").first.wait_for()
    shown = page.inner_text("body")
    assert re.search(r"\d-\d-\d: validation accuracy \d+\.\d\d %, \d of 3 blocks", shown)


def test_the_report_opens_by_double_click(page, project, tickets):
    page.goto((project / "studies" / "tiny" / "report.html").as_uri())
    page.get_by_role("heading", level=1).wait_for()
    shown = page.inner_text("body")
    for ticket in tickets.values():
        assert str(ticket.scheme) in shown
        assert f"{ticket.params:,}" in shown
    pictures = page.locator("img")
    assert pictures.count() >= 4
    for index in range(pictures.count()):
        assert pictures.nth(index).evaluate("image => image.complete && image.naturalWidth > 100")
