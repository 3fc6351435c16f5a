"""The report of a ticket that was carried over: what came from where, and what it is worth."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from sat_optuna.config.config import EvidenceConfig, StudyConfig
from sat_optuna.errors import TicketError
from sat_optuna.evidence.maps import MapResults
from sat_optuna.evidence.transfer_report import write_transfer_report
from sat_optuna.evidence.trivial_rules import TrivialRule
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure, Score, Source
from tests.evidence.test_report import NOISY, tickets

MINUS = "\N{MINUS SIGN}"


def carried(scheme="110-010-001", measure=ACCURACY, config=None, study="the digits"):
    """Tickets of a transfer: the ticket, its controls and three random ones."""
    rows = {role: row for role, row in NOISY.items() if not role.startswith("random")}
    for number, other in enumerate(("011-100-010", "000-111-100", "101-010-100"), start=1):
        rows[f"random-{number}"] = (other, (96.0, 96.1, 96.2), 17_650, 812_000, 3.2)
    source = Source(
        study=study,
        study_uuid=study and "u1",
        scheme=Scheme.parse(scheme),
        backbone="resnet20",
        dataset="cued-digits",
        rule="nearest relative position",
    )
    return {
        role: replace(
            ticket,
            source=source,
            trial=None,
            study="elsewhere",
            scores=tuple(
                Score(split="test", value=s.value, seed=s.seed, epochs=10, measure=measure)
                for s in ticket.scores
            ),
        )
        for role, ticket in tickets(rows, config).items()
    }


def told(folder, given, **more):
    with patch("sat_optuna.evidence.transfer_report.draw_networks"):
        path = write_transfer_report(
            folder / "elsewhere",
            given,
            images=1000,
            latency="latency is the median of 31 passes.",
            hardware="two cores",
            **more,
        )
    assert path.with_suffix(".html").is_file()
    return path.read_text(encoding="utf-8")


def test_it_says_what_was_carried_and_what_it_came_to(tmp_path):
    said = told(tmp_path, carried())
    assert said.startswith("# elsewhere: does a ticket of cued-digits pay on mnist5k?\n")
    for words in (
        "The ticket `110-010-001` of study `the digits`, made on cued-digits in resnet20, was "
        "carried to mnist5k in resnet20 as it is: attention in 4 of 9 blocks (SE in s1.b00, "
        "s1.b01, s2.b01, s3.b02). Nothing was searched here. Trained from scratch it has 97.13 % "
        "of the test images right (mean of 3 seeds): +0.20 points",
        "- faster: ",
        "- smaller: holds",
        "- accuracy kept: ",
        "- over plain: ",
        "- over constant: ",
        "- attention pays: ",
        "- C4 over random: not decided: ticket is better than random schemes of its density after "
        "10 epochs of 4,000 images: +1.03 points",
        "19 others are the fewest that such a test can decide by",
        "| random-3 | `101-010-100` |",
        "`sat-optuna evidence elsewhere --seeds 4` trains 20 of them",
        "- source: ticket `110-010-001` of study `the digits`, uuid `u1`\n"
        "- rule: nearest relative position\n"
        "- margin: against full the ticket may lose 1 point of accuracy",
        "every figure comes from `tickets/*.json` beside this file, made by `sat-optuna run elsew",
    ):
        assert words in said
    for word in ("trials", "sampler", "supernet", "The search"):
        assert word not in said


def test_another_depth_says_how_the_connections_changed(tmp_path):
    said = told(tmp_path, carried(scheme="100-010-010"))
    assert (
        "became `110-010-001` on mnist5k in resnet20, 4 of 9 blocks in the place of 3 of 9" in said
    )
    said = told(tmp_path / "more", carried(scheme="1-1-0", study=None))
    assert "The ticket `1-1-0`, made on cued-digits in resnet20, became `110-010-001`" in said
    assert "in the place of 2 of 3: attention in" in said


def test_margin_and_table_are_in_the_metric_of_the_task(tmp_path):
    config = StudyConfig(evidence=EvidenceConfig(margin=0.1)).to_dict()
    mae = Measure("mae", "", "lower")
    said = told(
        tmp_path,
        carried(measure=mae, config=config),
        maps=MapResults(rules=[TrivialRule("mean count", {mae: 99.0})]),
    )
    assert "- margin: against full the ticket may lose 0.1 of mae (evidence.margin of" in said
    assert "its test mae is 97.1333 (mean of 3 seeds)" in said
    assert "| network | scheme | test mae | n |" in said
    assert "## Against trivial rules" in said
    assert "| mean count | 99.0000 |" in said


def test_figures_are_drawn(tmp_path):
    given = carried()
    write_transfer_report(
        tmp_path / "elsewhere",
        given,
        images=1000,
        latency="not measured",
        hardware="two cores",
        curves={role: [[60.0, 90.0]] * 3 for role in given},
    )
    drawn = {path.name for path in (tmp_path / "elsewhere" / "figures").glob("*.png")}
    assert drawn == {"ticket.png", "accuracy.png", "curves.png"}


def test_a_ticket_that_was_searched_for_has_another_report(tmp_path):
    with pytest.raises(TicketError, match=r"names no ticket that it was carried over from; write"):
        told(tmp_path, tickets())


@pytest.mark.parametrize(
    ("schemes", "said"),
    [
        (("1-0-0", "0-1-0", "0-0-1"), "The 2 random tickets have the ticket's number of connect"),
        (("1-0", "0-1"), "The random ticket has the ticket's number of connections at other"),
    ],
)
def test_random_tickets_that_are_all_there_are_said_to_be(tmp_path, schemes, said):
    ticket, *others = schemes
    rows = {"ticket": ticket, "plain": ticket.replace("1", "0"), "full": ticket.replace("0", "1")}
    rows |= {f"random-{number}": other for number, other in enumerate(others, start=1)}
    costs = {role: (row, (96.0, 96.1, 96.2), 17_650, 812_000, 3.2) for role, row in rows.items()}
    made = carried()["ticket"].source
    given = {role: replace(t, source=made) for role, t in tickets(costs, None).items()}
    text = told(tmp_path, given)
    assert said in text
    assert "at other blocks: all that there are, so their ranks are no sample's. `sat-opt" in text
    assert "trains 20" not in text
