"""The report, word for word for fixed tickets, and what it says of other numbers."""

import csv
import io
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import TicketError
from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.report import (
    Blocks,
    Front,
    OnTest,
    SearchSummary,
    TrialRow,
    results_table,
    write_report,
)
from sat_optuna.evidence.spread import Part
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import AttentionSpec, Measure, Score, Ticket
from tests.evidence.test_pages import Parsed

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

# role: scheme, accuracies of the seeds 0, 1, 2, parameters, multiply-adds, latency
NOISY = {
    "ticket": ("110-010-001", (97.1, 97.4, 96.9), 17_700, 812_345, 3.21),
    "plain": ("000-000-000", (97.0, 96.6, 97.2), 17_000, 810_000, 2.5),
    "full": ("111-111-111", (96.8, 97.5, 97.0), 18_500, 815_000, None),
    "constant": ("220-020-002", (97.0, 97.2, 96.9), 17_160, 810_000, 2.7),
    "random-density": ("011-100-010", (97.3, 97.0, 96.5), 17_650, 812_000, 3.2),
    "random-best": ("110-010-001", (97.1, 97.4, 96.9), 17_700, 812_345, 3.21),
}
ROUNDS = {"plain": 2.5, "ticket": 2.78, "full": 3.2}  # milliseconds of the first pass
SE_AND_CONSTANT = (AttentionSpec(kind="se"), AttentionSpec(kind="constant:se"))
SEARCH = SearchSummary(
    sampler="policy",
    trials=[
        TrialRow(0, "100-000-000", 96.5, 95.0),
        TrialRow(1, "110-010-001", 97.25, 96.3),
        TrialRow(2, "111-111-100", 99.0, 98.8, "PRUNED"),
        TrialRow(3, "110-010-001", 97.25, 96.3),
        TrialRow(4, "111-111-111", None, None, "FAIL"),
    ],
    random=[TrialRow(0, "111-000-000", 96.9, 95.6), TrialRow(1, "110-010-001", 97.25, 96.3)],
    valid=Part(images=1000, largest=110, classes=10),
)
BLOCKS = Blocks(
    [
        Effect(name, "se", points, points - 0.3, points + 0.3, p=p)
        for name, points, p in zip(
            Scheme.parameter_names((3, 3, 3)),
            (0.9, 0.1, -0.6, 0.0, 0.2, -0.1, 0.05, 0.0, 0.3),
            (1e-6, 0.5, 1e-3, 1.0, 0.2, 0.5, 0.7, 1.0, 0.04),
            strict=True,
        )
    ],
    "Measured somehow.",
)


def tickets(rows=NOISY, config=None):
    return {
        role: Ticket(
            role=role,
            scheme=Scheme.parse(scheme),
            backbone="resnet20",
            backbone_settings={"width": 8},
            attention=SE_AND_CONSTANT[: 2 if role == "constant" else 1],
            classes=10,
            input_shape=(1, 28, 28),
            dataset="mnist5k",
            dataset_fingerprint="0123456789abcdef" * 4,
            seed=0,
            params=params,
            macs=macs,
            latency_ms=latency,
            latency_rounds=tuple(ROUNDS.get(role, 0.0) + 0.01 * turn for turn in range(12)),
            images={"train": 4000, "test": 1000},
            scores=tuple(
                Score(split="test", value=value, seed=seed, epochs=10)
                for seed, value in enumerate(accuracies)
            ),
            study="quickstart",
            trial=1 if role == "ticket" else None,
            versions={"python": "3.11.7", "torch": "2.13.0"},
            config=config or StudyConfig().to_dict(),
        )
        for role, (scheme, accuracies, params, macs, latency) in rows.items()
    }


def report(
    folder, given=None, images=1000, search=SEARCH, blocks=BLOCKS, largest=110, drawn=False
):
    given = given or tickets()
    # A test of words does not wait for pictures.
    with nullcontext() if drawn else patch("sat_optuna.evidence.report._draw"):
        path = write_report(
            folder / "quickstart",
            given,
            search,
            images=images,
            latency="latency is the median of 31 interleaved forward passes.",
            hardware="x86_64 Linux, 2 CPU threads",
            blocks=blocks,
            tested=OnTest(Part(images, largest, 10), dict.fromkeys(given, 95.5)),
            curves={role: [[60.0, 90.0]] * 3 for role in given} if drawn else None,
        )
    assert path == folder / "quickstart" / "report.md"
    return path.read_text(encoding="utf-8")


def rewritten(**accuracies):
    rows = {
        r: (row[0], accuracies.get(r.replace("-", "_"), row[1]), *row[2:])
        for r, row in NOISY.items()
    }
    return tickets(rows)


@pytest.mark.golden
def test_the_whole_report(tmp_path):
    expected = Path(__file__).with_name("expected_report.md").read_text(encoding="utf-8")
    assert report(tmp_path) == expected


def test_the_table_has_the_five_networks_with_mean_n_and_interval():
    head, _, *rows = results_table(tickets(), images=1000).splitlines()
    assert head.startswith(
        "| network | scheme | test accuracy % | n | 95 % interval | balanced % | parameters "
    )
    assert [row.split("|")[1].strip() for row in rows] == list(NOISY)
    for row in rows:
        _, _, _, mean, n, interval, *_ = (cell.strip() for cell in row.split("|"))
        low, _, high = interval.partition(" to ")
        assert n == "3"
        assert float(low) < float(mean) < float(high)


def test_the_table_of_differences_describes_and_leaves_the_verdicts_to_the_head(tmp_path):
    text = report(
        tmp_path, rewritten(plain=(90.1, 90.5, 89.8), random_density=(98.0, 98.31, 97.79))
    )
    table = text.partition("## What can be said\n\n")[2].partition("\n\n")[0].splitlines()
    assert table == [
        "| ticket minus | points | 95 % interval | n |",
        "|---|---:|---:|---:|",
        "| plain | +7.00 | +6.75 to +7.25 | 3 |",
        f"| full | +0.03 | {MINUS}0.54 to +0.61 | 3 |",
        f"| constant | +0.10 | {MINUS}0.15 to +0.35 | 3 |",
        f"| random-density | {MINUS}0.90 | {MINUS}0.92 to {MINUS}0.88 | 3 |",
        f"| random-best | the same network | {DASH} | {DASH} |",
    ]
    assert "What is shown and what is not decided, the verdicts at the head say, which pay" in text
    for words in ("within noise", "ticket better", "ticket worse", "p (Holm)"):
        assert words not in text


def test_a_failed_start_is_in_the_description_and_the_head_alone_decides(tmp_path):
    # Student's t over all four seeds would call it noise; the start at chance is left out above.
    scores = {"ticket": (90.0, 90.1, 90.2, 90.1), "plain": (80.0, 80.2, 80.1, 10.0)}
    given = {
        role: replace(
            ticket,
            scores=tuple(
                Score(split=split, value=value, seed=seed, epochs=10)
                for split in ("test", "train")
                for seed, value in enumerate(scores.get(role, (90.0, 90.3, 90.1, 90.0)))
            ),
        )
        for role, ticket in tickets().items()
    }
    head, _, below = report(tmp_path, given).partition("## What can be said")
    (line,) = (line for line in head.splitlines() if line.startswith("- over plain"))
    row = re.search(r"plain \| (\S+) \| (\S+) to (\S+) \| 4", below)
    assert row is not None
    mean, low, high = (float(x.replace(MINUS, "-")) for x in row.groups())
    differences = [10.0, 9.9, 10.1, 80.1]
    wanted = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    assert mean == pytest.approx(np.mean(differences), abs=0.006)
    assert (low, high) == pytest.approx(wanted, abs=0.006)
    assert low < 0 < high
    assert "10.00 points" in line
    assert "within noise" not in head


def test_another_network_of_equal_accuracies_is_not_the_same_network(tmp_path):
    text = report(tmp_path, rewritten(plain=NOISY["ticket"][1]))
    assert f"| plain | +0.00 | {MINUS}1.50 to +1.50 | 3 |" in text


def test_equal_differences_are_not_called_certain(tmp_path):
    text = report(tmp_path, rewritten(plain=(97.0, 97.3, 96.8)))
    assert f"| plain | +0.10 | {MINUS}1.41 to +1.62 | 3 |" in text


def test_a_ticket_without_attention_is_the_plain_network(tmp_path):
    rows = NOISY | dict.fromkeys(("ticket", "random-density", "random-best"), NOISY["plain"])
    del rows["constant"]
    text = report(tmp_path, tickets(rows))
    assert "**Attention pays nowhere** that the search found: the ticket is the plain" in text
    assert "4,000 images; the ticket is plain, which has no constant control" in text
    assert "The search found `000-000-000`: attention in no block, by trial 1 of 5 (" in text
    assert ": it is the plain network itself; " in text
    for role in ("plain", "random-density", "random-best"):
        assert f"| {role} | the same network | {DASH} | {DASH} |" in text


def test_one_seed_decides_nothing(tmp_path):
    one = {role: replace(ticket, scores=ticket.scores[:1]) for role, ticket in tickets().items()}
    text = report(tmp_path, one)
    assert f"| plain | +0.10 | {DASH} | 1 |" in text
    assert (
        f"| plain | `000-000-000` | 97.00 | 1 | {DASH} | 95.50 | 17,000 | 810,000 | 2.50 |" in text
    )
    assert "nan" not in text
    assert "One seed decides nothing: the noise is not known." in text


def test_scores_are_paired_by_seed_in_whatever_order_they_are_stored(tmp_path):
    given = tickets()
    turned = {r: replace(t, scores=t.scores[::-1]) if r == "full" else t for r, t in given.items()}
    valid = Score(split="valid", value=1.0, seed=0, epochs=10)
    turned["plain"] = replace(turned["plain"], scores=(valid, *turned["plain"].scores))
    assert report(tmp_path / "a", turned) == report(tmp_path / "b", given)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (2, "full has test scores of the seeds [0, 1] and ticket of [0, 1, 2]; retrain all "),
        (0, "full has test scores of the seeds [] and ticket of [0, 1, 2]; retrain all "),
    ],
)
def test_tickets_of_other_seeds_are_not_compared(tmp_path, kept, said):
    given = tickets()
    given["full"] = replace(given["full"], scores=given["full"].scores[:kept])
    with pytest.raises(TicketError) as caught:
        report(tmp_path, given)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "quickstart").exists()


def test_tickets_that_were_not_retrained_are_refused():
    given = {role: replace(ticket, scores=()) for role, ticket in tickets().items()}
    with pytest.raises(TicketError, match="retrain all networks with the same seeds"):
        results_table(given, images=1000)


@pytest.mark.parametrize(
    ("search", "pretrain", "lines"),
    [
        (
            {"objective": "train", "epochs": 5},
            {},
            [
                "reward of a scheme: validation accuracy in points of its network after 5 epochs "
                "from scratch, + 2.0 x share of blocks without attention",
            ],
        ),
        (
            {"objective": "train", "start": "supernet", "sparsity_weight": 1.0},
            {"draws": "balanced"},
            [
                "supernet: 10 epochs under random schemes (balanced)",
                "reward of a scheme: validation accuracy in points of its network after 2 epochs "
                "from the supernet's weights, + 1.0 x share of blocks without attention",
            ],
        ),
    ],
)
def test_the_method_is_that_of_the_objective(tmp_path, search, pretrain, lines):
    config = StudyConfig().to_dict()
    config["search"] |= search
    config["pretrain"] |= pretrain
    items = report(tmp_path, tickets(config=config)).rpartition("##")[2].splitlines()
    assert items[3 : 3 + len(lines)] == [f"- {line}" for line in lines]
    assert items[3 + len(lines)].startswith("- retraining:")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_retraining_is_said(tmp_path, compiled):
    config = StudyConfig().to_dict()
    config["train"]["compile"] = compiled
    (line,) = [
        x for x in report(tmp_path, tickets(config=config)).splitlines() if "data order" in x
    ]
    assert line.endswith(", compiled by torch") == compiled


def sentences(text):
    """What the search found, sentence by sentence."""
    _, first, _, third, *_ = text.split("\n\n")
    return (first if first.startswith("**Nothing") else third).replace("**", "").split(". ")


def test_two_sentences_are_the_result(tmp_path):
    found, sure, *_ = sentences(report(tmp_path))
    assert found == (
        "The search found `110-010-001`: attention in 4 of 9 blocks (SE in s1.b00, s1.b01, "
        "s2.b01, s3.b02), by trial 1 of 5 (3 complete, 1 pruned, 1 failed)"
    )
    assert sure.startswith("Trained from scratch it has 97.13 % of the test images right (mean")
    assert f": +0.20 points ({MINUS}1.18 to +1.58) against plain; +0.03" in sure
    assert sure.endswith("against full")


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("largest", [593_75, 10])
def test_a_search_in_which_nothing_differed_says_so_first(tmp_path, pruned, largest):
    rows = [TrialRow(n, f"{n:09b}"[:3] + "-000-000", 60 + n, 59.375) for n in (0, 64, 128, 192)]
    rows += [TrialRow(4, "111-000-000", 80.0, 78.0, "PRUNED")] * pruned
    search = SearchSummary("policy", rows, rows[:2], Part(100_000, largest, 10))
    text = report(tmp_path, search=search)
    first, _, *_ = sentences(text)
    assert text.index("**Nothing can be told**") < text.index("**Whether attention pays")
    assert first.startswith("Nothing can be told: all 4 schemes that the search scored have the s")
    assert "59.38 %" in text
    assert "4 schemes have 1 distinct accuracy, 59.38 %; naming the largest class each" in text
    assert ("equals the largest class's share" in text) == (largest == 593_75)


def test_the_digits_are_explained_and_each_kind_has_its_full_network(tmp_path):
    given = {
        role: replace(ticket, attention=(AttentionSpec(kind="se"), AttentionSpec(kind="sge")))
        for role, ticket in tickets().items()
    }
    given["full-sge"] = replace(given["full"], scheme=Scheme.parse("222-222-222"))
    given["full-se"] = given.pop("full")
    text = report(tmp_path, given)
    assert "with a dash between stages: 0 none, 1 SE, 2 SGE." in text
    assert "# quickstart: in which blocks of resnet20 does SE / SGE pay?" in text
    assert re.findall(r"\) against (full-\w+)", text) == ["full-sge", "full-se"]


def test_the_table_of_blocks_answers_the_title(tmp_path):
    text = report(tmp_path)
    assert "| s1.b00 | SE | +0.90 | +0.60 to +1.20 | pays | yes |" in text
    assert f"| s1.b02 | SE | {MINUS}0.60 | {MINUS}0.90 to {MINUS}0.30 | hurts |  |" in text
    # p = 0.04 alone would do, but it is one of nine.
    assert "| s3.b02 | SE | +0.30 | +0.00 to +0.60 | not told from 0 | yes |" in text
    assert (
        "SE pays at s1.b00: +0.90 points (+0.60 to +1.20); SE hurts at s1.b02: "
        f"{MINUS}0.60 points ({MINUS}0.90 to {MINUS}0.30); the other 7 of 9 effects are not told "
        "from 0." in text
    )


def test_without_a_table_the_random_schemes_tell_the_blocks(tmp_path):
    chance = np.random.default_rng(0)
    choices = chance.integers(0, 2, (60, 9))
    rows = [
        TrialRow(n, str(Scheme.of(row, (3, 3, 3))), 0.0, float(90 + 2 * row[4] + noise))
        for n, (row, noise) in enumerate(zip(choices, chance.normal(0, 0.5, 60), strict=True))
    ]
    search = replace(SEARCH, random=rows)
    text = report(tmp_path, search=search, blocks=None)
    assert "Block by block, in the validation accuracy: SE pays at s2.b01: +" in text
    assert "choices of 60 random schemes, the control of the search" in text
    assert "proposals are not random" in text


def test_where_no_random_scheme_could_be_scored_that_is_said(tmp_path):
    failed = [TrialRow(n, "100-000-000", None, None, "FAIL") for n in range(2)]
    text = report(tmp_path, search=replace(SEARCH, random=failed))
    assert "best reward 97.250. Random schemes" in text
    assert "2 (2 failed); none of them has a reward. One search" in text


@pytest.mark.parametrize("count", [1, 5, 9])
def test_few_random_schemes_tell_nothing_whatever_the_search_tried(tmp_path, count):
    chance = np.random.default_rng(0)
    rows = [
        TrialRow(n, str(Scheme.of(row, (3, 3, 3))), 0.0, float(90 + 2 * row[4] + row[0] / 3))
        for n, row in enumerate(chance.integers(0, 2, (60, 9)))
    ]
    # One that came again is no further scheme; the search's own are none at all.
    search = replace(SEARCH, random=rows[:count] * 9, trials=[*SEARCH.trials, *rows[9:]])
    text = report(tmp_path, search=search, blocks=None)
    assert f"Nothing can be told: {count} schemes for 9 effects of a kind at a block. " in text
    assert "more trials (search.trials)" in text
    assert "`sat-optuna enumerate quickstart`" in text
    assert "pays at" not in text
    assert "blocks.png" not in text


def test_a_network_no_better_than_the_largest_class_is_named(tmp_path):
    text = report(tmp_path, rewritten(full=(59.3, 59.4, 59.4)), largest=593)
    assert "naming the largest class each time gets 59.30 % right, chance 10.00 %" in text
    assert (
        "**No better than naming the largest class each time**, with one seed or more: full."
        in text
    )
    assert "No better than" not in report(tmp_path / "b")


@pytest.mark.parametrize("seen", [60.0, 99.9])
def test_a_retraining_that_holds_is_not_remarked(tmp_path, seen):
    assert "Far below the search" not in with_search(tmp_path, seen, NOISY["ticket"][1], 1000)


@pytest.mark.parametrize(
    ("tested", "images", "far"), [(20.0, 1000, True), (90.0, 1000, True), (90.0, 20, False)]
)
def test_a_retraining_far_below_the_search_is_remarked(tmp_path, tested, images, far):
    text = with_search(tmp_path, 97.0, (tested, tested + 0.2, tested - 0.2), images)
    said = f"**Far below the search**: from scratch the ticket has {tested:.2f} %, where the"
    assert (said in text) == far


def with_search(folder, seen, values, images):
    given = rewritten(ticket=values, random_best=values)
    valid = Score(split="valid", value=seen, seed=0, epochs=10)
    given["ticket"] = replace(given["ticket"], scores=(valid, *given["ticket"].scores))
    return report(folder, given, images=images, largest=1)


def test_seeds_that_do_not_differ_are_no_certainty(tmp_path):
    text = report(
        tmp_path,
        rewritten(
            **dict.fromkeys(
                ("ticket", "plain", "full", "constant", "random_density", "random_best"),
                (59.375,) * 3,
            )
        ),
        images=64,
        largest=38,
    )
    assert "| ticket | `110-010-001` | 59.38 | 3 | 47.15 to 70.54 | 95.50 |" in text
    assert "± 0.00" not in text
    assert "In none of the comparisons do the 3 seeds differ, which is no certainty" in text
    assert "+0.00 to +0.00" not in text


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder above a report with its pictures, and what the report says."""
    above = tmp_path_factory.mktemp("drawn")
    return above, report(above, drawn=True)


def test_all_that_the_report_shows_lies_beside_it(drawn):
    tmp_path, text = drawn
    for name in ("ticket", "blocks", "search", "accuracy", "connections", "curves"):
        assert f"](figures/{name}.png)" in text
        assert imread(tmp_path / "quickstart" / "figures" / f"{name}.png").ndim == 3
    page = Parsed.of(tmp_path / "quickstart" / "report.html")
    assert [alt for alt, _ in page.pictures] == re.findall(r"!\[(.*?)\]", text)
    assert all(source.startswith("data:image/svg+xml;base64,") for _, source in page.pictures)
    assert page.title == "quickstart: in which blocks of resnet20 does SE pay?"
    written = (tmp_path / "quickstart" / "figures" / "trials.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [row["search"] for row in rows] == ["policy"] * 5 + ["random-control"] * 2
    assert [row["reward"] for row in rows[:5]] == ["96.5", "97.25", "99.0", "97.25", ""]
    assert [row["state"] for row in rows[1:5]] == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    assert rows[3] == {
        "search": "policy",
        "number": "3",
        "state": "COMPLETE",
        "scheme": "110-010-001",
        "reward": "97.25",
        "accuracy": "96.3",
    }


@pytest.mark.parametrize(
    ("same", "labels"),
    [
        ((), ["ticket", "plain", "full"]),
        (("plain", "random-density"), ["ticket = plain = random scheme", "full"]),
        (("full",), ["ticket = full", "plain"]),
    ],
)
def test_a_network_of_several_roles_stands_once_in_the_figures(tmp_path, same, labels):
    rows = {role: row for role, row in NOISY.items() if role not in ("constant", "random-best")}
    given = tickets(rows | dict.fromkeys(same, rows["ticket"]))
    with (
        patch("sat_optuna.evidence.retrained.draw_costs") as costs,
        patch("sat_optuna.evidence.retrained.draw_curves") as curves,
        patch("sat_optuna.evidence.retrained.draw_ticket") as drawn,
    ):
        report(tmp_path, given, drawn=True)
    others = [] if "random-density" in same else ["random scheme"]
    for figure in (costs, curves):
        _, networks = figure.call_args.args
        assert sorted(networks) == sorted(labels + others)
    head, *table = drawn.call_args.kwargs["table"]
    assert head[2:] == ["95 % interval, n = 3", "parameters", "latency ms"]
    assert sorted(row[0] for row in table) == sorted(labels)
    name, mean, interval, _, latency = table[0]
    assert (name.split(" ")[0], mean, interval, latency) == (
        "ticket", "97.13", "96.51 to 97.76", "3.21"
    )  # fmt: skip
    assert curves.call_args.kwargs["floor"] == ("largest class of\nthe test, 11.0 %", 11.0)


def test_the_same_tickets_give_the_same_files(drawn, tmp_path):
    first, _ = drawn
    report(tmp_path, drawn=True)
    files = sorted(path for path in first.rglob("*") if path.is_file())
    pictures = ("accuracy", "blocks", "connections", "curves", "search", "ticket")
    named = [f"{name}.{kind}" for name in pictures for kind in ("png", "svg")]
    assert {path.name for path in files} == {"report.md", "report.html", "trials.csv", *named}
    for path in files:
        again = tmp_path / path.relative_to(first)
        assert path.read_bytes() == again.read_bytes()


def test_a_metric_that_is_better_lower_is_read_so_and_nothing_is_said_of_accuracy(tmp_path):
    loss = Measure("log_loss", "nats", "lower")
    given = {
        role: replace(
            t, scores=tuple(replace(s, value=s.value / 100, measure=loss) for s in t.scores)
        )
        for role, t in rewritten(plain=(98.1, 98.5, 97.8), full=(90.1, 90.5, 89.8)).items()
    }
    rows = [row._replace(score=row.score and row.score / 100) for row in SEARCH.trials]
    search = replace(SEARCH, trials=rows, random=rows[:2], measure=loss)
    text = report(tmp_path, given, search=search)
    assert "its test log loss is 0.9713 nats (mean of 3 seeds): " in text
    assert f"{MINUS}0.0100 nats ({MINUS}0.0125 to {MINUS}0.0075) against plain;" in text
    assert "+0.0700 nats (+0.0675 to +0.0725) against full." in text
    assert "| network | scheme | test log loss nats | n | 95 % interval | balanced % |" in text
    assert f"| plain | {MINUS}0.0100 | " in text
    assert "| full | +0.0700 | +0.0675 to +0.0725 | 3 |" in text
    assert "the lower the better, mean over seeds, with Student's interval over the seeds" in text
    assert "reward of a scheme: minus the validation log loss in the supernet" in text
    for word in ("largest class", "Wilson", "Newcombe", "accuracy points", "images right"):
        assert word not in text


def test_tickets_of_several_metrics_are_not_compared(tmp_path):
    given = tickets()
    loss = Measure("log_loss", "nats", "lower")
    scores = tuple(replace(score, measure=loss) for score in given["plain"].scores)
    given["plain"] = replace(given["plain"], scores=scores)
    with pytest.raises(
        TicketError, match=r"^the tickets have test scores of accuracy and log_loss"
    ):
        report(tmp_path, given)


FRONT = replace(
    SEARCH,
    trials=[
        TrialRow(0, "000-000-000", None, 95.0, values=(95.0, 2.5)),
        TrialRow(1, "110-010-001", None, 96.3, values=(96.3, 3.0)),
        TrialRow(2, "111-111-111", None, None, "FAIL"),
    ],
    random=[TrialRow(0, "110-010-001", None, 96.3, values=(96.3, 3.0))],
    front=Front(
        objectives=("accuracy", "latency_ms"),
        points={"110-010-001": (96.3, 3.0), "000-000-000": (95.0, 2.5)},
        references={"plain": (95.0, 2.5), "full": (96.2, 4.25)},
        random=1,
    ),
    latency="a model of 32 schemes; the ticket takes 3.00 ms by it",
)


def test_a_front_is_told_with_plain_full_and_the_rule_that_chose_its_ticket(tmp_path):
    text = report(tmp_path, search=FRONT, drawn=True)
    for line in (
        "| scheme | accuracy | latency_ms |  |",
        "|---|---:|---:|---|",
        "| `110-010-001` | 96.30 | 3.00 | ticket |",
        "| `000-000-000` | 95.00 | 2.50 |  |",
        "| `plain` | 95.00 | 2.50 | for comparison |",
        "| `full` | 96.20 | 4.25 | for comparison |",
        "![front](figures/front.png)",
        "- latency of schemes: a model of 32 schemes; the ticket takes 3.00 ms by it",
    ):
        assert line in text.splitlines()
    for words in (
        "the one with the least latency_ms of those whose accuracy lies within one standard "
        "error over the 1,000 validation images of the highest",
        "`sat-optuna ticket quickstart --front` writes a ticket for each",
        "3 (2 complete, 1 failed), 2 schemes on the front",
    ):
        assert words in text
    assert "figures/search.png" not in text
    assert "best reward" not in text
    figures = tmp_path / "quickstart" / "figures"
    assert (figures / "front.png").exists()
    assert not (figures / "search.png").exists()
    rows = (figures / "trials.csv").read_text().splitlines()
    assert rows[0].endswith("accuracy,objective accuracy,objective latency_ms")
    assert rows[1] == "policy,0,COMPLETE,000-000-000,,95.0,95.0,2.5"
    assert rows[3] == "policy,2,FAIL,111-111-111,,,,"
