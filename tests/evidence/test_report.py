"""The report, word for word for fixed tickets, and what it says of other numbers."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import TicketError
from sat_optuna.evidence.report import SearchSummary, TrialRow, results_table, write_report
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import AttentionSpec, Score, Ticket

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

# role: scheme, accuracies of the seeds 0, 1, 2, parameters, multiply-adds, latency
NOISY = {
    "ticket": ("110-010-001", (97.1, 97.4, 96.9), 17_700, 812_345, 3.21),
    "plain": ("000-000-000", (97.0, 96.6, 97.2), 17_000, 810_000, 2.5),
    "full": ("111-111-111", (96.8, 97.5, 97.0), 18_500, 815_000, None),
    "random-density": ("011-100-010", (97.3, 97.0, 96.5), 17_650, 812_000, 3.2),
    "random-best": ("110-010-001", (97.1, 97.4, 96.9), 17_700, 812_345, 3.21),
}
SEARCH = SearchSummary(
    sampler="policy",
    trials=[
        TrialRow(0, "100-000-000", 96.5, 95.0),
        TrialRow(1, "110-010-001", 97.25, 96.3),
        TrialRow(3, "110-010-001", 97.25, 96.3),
    ],
    random=[TrialRow(0, "111-000-000", 96.9, 95.6), TrialRow(1, "110-010-001", 97.25, 96.3)],
)


def tickets(rows=NOISY, config=None):
    return {
        role: Ticket(
            role=role,
            scheme=Scheme.parse(scheme),
            backbone="resnet20",
            backbone_settings={"width": 8},
            attention=(AttentionSpec(kind="se"),),
            classes=10,
            input_shape=(1, 28, 28),
            dataset="mnist5k",
            dataset_fingerprint="0123456789abcdef" * 4,
            seed=0,
            params=params,
            macs=macs,
            latency_ms=latency,
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


def report(folder, given=None, images=1000):
    path = write_report(
        folder / "quickstart",
        given or tickets(),
        SEARCH,
        images=images,
        latency="latency is the median of 31 interleaved forward passes.",
        hardware="x86_64 Linux, 2 CPU threads",
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
    head, _, *rows = results_table(tickets()).splitlines()
    assert head.startswith(
        "| network | scheme | test accuracy % | n | 95 % interval | parameters "
    )
    assert [row.split("|")[1].strip() for row in rows] == list(NOISY)
    for row in rows:
        _, _, _, mean, n, interval, *_ = (cell.strip() for cell in row.split("|"))
        low, _, high = interval.partition(" to ")
        assert n == "3"
        assert float(low) < float(mean) < float(high)


def test_a_ranking_within_noise_is_called_just_that(tmp_path):
    text = report(tmp_path)
    assert (
        "No control differs from the ticket by more than the noise: the order of the networks is "
        "**within noise** and must not be read as a ranking." in text
    )
    assert "ticket better" not in text
    assert "ticket worse" not in text


def test_a_control_that_differs_is_marked_and_only_that(tmp_path):
    text = report(
        tmp_path, rewritten(plain=(90.1, 90.5, 89.8), random_density=(98.0, 98.31, 97.79))
    )
    assert "| plain | +7.00 | +6.75 to +7.25 | < 0.001 | ticket better |" in text
    assert (
        f"| random-density | {MINUS}0.90 | {MINUS}0.92 to {MINUS}0.88 | < 0.001 | ticket worse |"
        in text
    )
    assert f"| full | +0.03 | {MINUS}0.54 to +0.61 | 0.826 | within noise |" in text
    assert "Only differences marked better or worse stand out of the noise of the seeds (" in text
    assert "No control differs" not in text


def test_a_control_with_the_tickets_scheme_is_the_same_network_and_no_test(tmp_path):
    text = report(tmp_path)
    assert f"| random-best | 0 | {DASH} | {DASH} | the same network |" in text
    assert "Holm's correction over 3 controls" in text


def test_another_network_of_equal_accuracies_is_not_the_same_network(tmp_path):
    text = report(tmp_path, rewritten(plain=NOISY["ticket"][1]))
    assert "| plain | +0.00 | +0.00 to +0.00 | 1.000 | within noise |" in text


def test_equal_differences_are_not_called_certain(tmp_path):
    text = report(tmp_path, rewritten(plain=(97.0, 97.3, 96.8)))
    assert "| plain | +0.10 | +0.10 to +0.10 | 0.750 | within noise |" in text


def test_a_ticket_without_attention_is_the_plain_network(tmp_path):
    rows = NOISY | dict.fromkeys(("ticket", "random-density", "random-best"), NOISY["plain"])
    text = report(tmp_path, tickets(rows))
    assert "attention in 0 of 9 blocks (density 0.00)" in text
    for role in ("plain", "random-density", "random-best"):
        assert f"| {role} | 0 | {DASH} | {DASH} | the same network |" in text
    assert "Holm's correction over 1 control " in text


def test_one_seed_decides_nothing(tmp_path):
    one = {role: replace(ticket, scores=ticket.scores[:1]) for role, ticket in tickets().items()}
    text = report(tmp_path, one)
    assert f"| plain | +0.10 | {DASH} | {DASH} | one seed decides nothing |" in text
    assert f"| plain | `000-000-000` | 97.00 | 1 | {DASH} | 17,000 | 810,000 | 2.50 |" in text
    assert "nan" not in text
    assert "within noise** and must not be read as a ranking" in text


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
        results_table(given)


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


def test_all_that_the_report_shows_lies_beside_it(tmp_path):
    text = report(tmp_path)
    for name in ("ticket", "search", "accuracy"):
        assert f"](figures/{name}.png)" in text
        assert imread(tmp_path / "quickstart" / "figures" / f"{name}.png").ndim == 3
    written = (tmp_path / "quickstart" / "figures" / "trials.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [row["search"] for row in rows] == ["policy"] * 3 + ["random-control"] * 2
    assert [float(row["reward"]) for row in rows[:3]] == [96.5, 97.25, 97.25]
    assert rows[2] | {"accuracy": "96.3"} == {
        "search": "policy",
        "number": "3",
        "scheme": "110-010-001",
        "reward": "97.25",
        "accuracy": "96.3",
    }


def test_the_same_tickets_give_the_same_files(tmp_path):
    report(tmp_path / "a")
    report(tmp_path / "b")
    files = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 5
    for path in files:
        again = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == again.read_bytes()
