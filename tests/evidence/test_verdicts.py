"""What stands at the head of a report: verdicts of a ticket's and its controls' numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from sat_optuna.evidence.verdicts import claims_of, claims_text, headline, row_of, runs_of
from sat_optuna.pipeline.comparison import compare_studies
from sat_optuna.pipeline.reading import tickets_beside
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure, Score, Ticket
from tests.networks import tiny_supernet
from tests.tickets import ticket_of

COMMITTED = Path(__file__).parents[2] / "studies"
NET = tiny_supernet(["se", "constant:se"])
SCHEMES = {"ticket": "10-010-0", "plain": "00-000-0", "full": "11-111-1", "constant": "20-020-0"}
NOISE = (0.1, -0.2, 0.15, 0.0)
ROUNDS = {"ticket": 2.2, "plain": 2.0, "full": 3.0, "constant": 2.1}


def tickets(**means: float) -> dict[str, Ticket]:
    """Tickets of four seeds by role; the noise of each but full is its own."""
    found = {}
    for role, mean in means.items():
        turn = -1 if role == "ticket" else 1
        noise = NOISE[1:] + NOISE[:1] if role == "constant" else NOISE
        values = [mean + turn * apart for apart in noise]
        scores = [Score(split="test", value=v, seed=s, epochs=20) for s, v in enumerate(values)]
        scores += [Score(split="train", value=90.0, seed=s, epochs=20) for s in range(4)]
        scheme = Scheme.parse(SCHEMES[role])
        found[role] = replace(
            ticket_of(NET, scheme),
            role=role,
            scores=tuple(scores),
            params=1000 + 100 * scheme.connections,
            latency_rounds=tuple(ROUNDS[role] + 0.01 * turn for turn in range(8)),
            images={"train": 6000, "test": 1000},
        )
    return found


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            {"ticket": 90.0, "plain": 40.0, "full": 90.0, "constant": 60.0},
            "**Attention pays** under this budget: the ticket beats plain and input-independent "
            "scaling (its constant control) too.",
        ),
        (
            {"ticket": 90.0, "plain": 40.0, "full": 90.0, "constant": 90.0},
            "**The ticket beats plain**; **rescaling explains it**: input-independent scaling "
            "(its constant control) beats plain too, and is less than the margin behind the "
            "ticket.",
        ),
        (
            {"ticket": 90.0, "plain": 40.0, "full": 90.0, "constant": 95.0},
            "**The ticket beats plain**; **rescaling explains it**: input-independent scaling "
            "(its constant control) is better still.",
        ),
        (
            {"ticket": 90.0, "plain": 40.0, "full": 99.0},
            "**The ticket beats plain**; whether by attention or by rescaling is not known, for "
            "no constant control was retrained. **Failed: accuracy kept.**",
        ),
        (
            {"ticket": 90.0, "plain": 90.0, "full": 99.0, "constant": 80.0},
            "**Whether attention pays is not decided** under this budget. **Failed: accuracy kep",
        ),
        (
            {"ticket": 90.0, "plain": 90.0, "full": 90.0, "constant": 99.0},
            "**Attention does not pay** under this budget: input-independent scaling (its constan",
        ),
        (
            {"ticket": 80.0, "plain": 90.0, "full": 80.0, "constant": 70.0},
            "**Attention does not pay** under this budget: plain is better than the ticket.",
        ),
    ],
    ids=["pays", "as well", "better", "no control", "open", "worse than blind", "worse"],
)
def test_attention_pays_only_where_it_beats_what_looks_at_nothing_too(means, said):
    claims = claims_of(tickets(**means))
    assert headline(claims).startswith(said)
    assert ("pays** under" in headline(claims)) == (claims[-1].verdict == "holds")
    assert [claim.name for claim in claims] == [
        "faster", "smaller", "accuracy kept", "over plain", "over constant", "attention pays",
    ]  # fmt: skip
    text = claims_text(claims)
    assert text.splitlines()[0].startswith(said)
    assert [line[2:] for line in text.splitlines()[2:]] == [claim.line() for claim in claims]


UNDECIDED = "whether by attention or by rescaling is not decided under this budget."


def with_values(ticket: Ticket, values: list[float], train: float = 90.0) -> Ticket:
    scores = [Score(split="test", value=v, seed=s, epochs=20) for s, v in enumerate(values)]
    scores += [Score(split="train", value=train, seed=s, epochs=20) for s in range(len(values))]
    return replace(ticket, scores=tuple(scores))


@pytest.mark.parametrize(
    "constant",
    [
        [93.0, 33.0, 83.0, 53.0],  # ticket minus constant is +25 points, and may be 0
        [87.5, 91.5, 87.0, 92.0],  # beats plain, and may be more than the margin behind
    ],
    ids=["wide", "beyond the margin"],
)
def test_rescaling_explains_nothing_that_was_not_decided(constant):
    given = tickets(ticket=90.0, plain=40.0, full=90.0, constant=90.0)
    given["constant"] = with_values(given["constant"], constant)
    found = {claim.name: claim for claim in claims_of(given)}
    assert found["over constant"].verdict == "not decided"
    assert found["over constant"].high > 1
    assert headline(claims_of(given)) == f"**The ticket beats plain**; {UNDECIDED}"


@pytest.mark.parametrize(
    ("values", "train", "said"),
    [
        ([20.0] * 4, 20.0, "not known: ticket failed to start in 0 of 4 runs, constant in 4."),
        ([], 90.0, "not known: there is no seed with both ticket and constant."),
    ],
)
def test_a_control_without_a_run_to_compare_is_no_missing_control(values, train, said):
    given = tickets(ticket=90.0, plain=40.0, full=90.0, constant=90.0)
    given["constant"] = with_values(given["constant"], values, train)
    assert said in headline(claims_of(given))
    assert "no constant control was retrained" not in headline(claims_of(given))


@pytest.mark.parametrize(("failed", "said"), [(1, "1 run"), (4, "4 runs")])
def test_runs_of_the_ticket_that_fail_to_start_stand_in_the_headline(failed, said):
    given = tickets(ticket=90.0, plain=40.0, full=90.0, constant=60.0)
    scores = tuple(
        replace(s, value=20.0) if s.split == "train" and s.seed < failed else s
        for s in given["ticket"].scores
    )
    given["ticket"] = replace(given["ticket"], scores=scores)
    claims = claims_of(given)
    assert headline(claims) == (
        "**Whether attention pays is not decided** under this budget. "
        f"**{said} of the ticket failed to start.**"
    )
    assert {c.verdict for c in claims[2:]} == {"not decided"}


def test_a_line_over_constant_says_whether_constant_is_over_plain():
    given = tickets(ticket=90.0, plain=40.0, full=90.0, constant=60.0)
    over = claims_of(given)[4]
    assert over.control_over_plain == "holds"
    assert over.line().endswith("; constant over plain holds, p < 0.001")


def test_the_budget_is_part_of_what_is_claimed_and_the_numbers_are_the_tickets():
    given = tickets(ticket=90.0, plain=40.0, full=90.2, constant=60.0)
    faster, smaller, kept, plain, constant, _ = claims_of(given)
    assert (faster.verdict, smaller.verdict, kept.verdict) == ("holds",) * 3
    assert faster.effect == pytest.approx(20.0)
    assert smaller.effect == -400
    assert kept.effect == pytest.approx(-0.2 - 2 * 0.0125)
    assert plain.sentence.endswith("after 20 epochs of 6,000 images")
    assert constant.effect == pytest.approx(30.0 - 2 * 0.0125)
    assert constant.low > 0
    row = row_of(plain)
    assert (row["margin"], row["line"], row["seeds"]) == (None, plain.line(), 4)


def test_the_margin_of_the_study_decides_what_is_kept():
    given = tickets(ticket=90.0, plain=40.0, full=94.0)
    assert claims_of(given)[2].verdict == "fails"
    wide = replace(given["ticket"], config={"evidence": {"margin": 6.0}})
    assert claims_of(given | {"ticket": wide})[2].verdict == "holds"


def test_a_failed_start_is_known_by_the_training_accuracy_in_the_tickets():
    given = tickets(ticket=90.0, plain=40.0, full=90.0, constant=60.0)
    at_chance = Score(split="train", value=20.0, seed=3, epochs=20)
    scores = (*given["full"].scores[:-1], at_chance)
    given["full"] = replace(given["full"], scores=scores)
    kept = claims_of(given)[2]
    assert kept.failed_starts == {"full": 1}
    assert kept.seeds == 3


def test_of_a_loss_lower_is_better():
    loss = Measure("log_loss", "nats", "lower")
    given = {
        role: replace(
            ticket,
            scores=tuple(
                replace(s, value=s.value / 100, measure=loss)
                for s in ticket.scores
                if s.split == "test"
            ),
        )
        for role, ticket in tickets(ticket=40.0, plain=90.0, full=40.0, constant=60.0).items()
    }
    assert runs_of(given).measure == loss
    assert headline(claims_of(given)).startswith("**Attention pays**")


def test_a_ticket_that_is_plain_has_no_constant_control():
    given = tickets(plain=90.0, full=90.0)
    given["ticket"] = replace(given["plain"], role="ticket")
    claims = claims_of(given)
    assert headline(claims).startswith("**Attention pays nowhere** that the search found")
    assert claims[4].line().endswith("; the ticket is plain, which has no constant control")
    assert claims[5].verdict == "fails"


@pytest.mark.parametrize("study", ["fashion-sge", "quickstart"])
def test_studies_of_earlier_versions_are_read_as_they_are(study):
    path = COMMITTED / study / "tickets" / "ticket.json"
    found = tickets_beside(path, Ticket.load(path))
    assert {"ticket", "plain", "full", "random-density"} <= found.keys()
    claims = claims_of(found)
    assert claims[1].verdict == "holds"
    assert len(compare_studies([COMMITTED / "fashion-sge", COMMITTED / "quickstart"]).rows) == 7


def test_what_lies_beside_a_ticket_and_is_not_its_studys_is_left_out(tmp_path):
    given = tickets(ticket=90.0, plain=40.0, full=90.0)
    given["full"] = replace(given["full"], dataset_fingerprint="other")
    for role, ticket in given.items():
        ticket.save(tmp_path / f"{role}.json")
    (tmp_path / "notes.json").write_text("{}")
    path = tmp_path / "ticket.json"
    assert [*tickets_beside(path, given["ticket"])] == ["ticket", "plain"]
    assert tickets_beside(path, given["plain"]) == {}
    (tmp_path / "plain.json").unlink()
    assert tickets_beside(path, given["ticket"]) == {}
