"""The tables and the picture."""

import itertools

import pytest

from comparison import Results, compared
from problems import make_problem
from report import ablation_markdown, draw_curves, table_markdown
from tests.bench_sampler.made import run


def tabled(runs):
    results = Results(runs)
    return table_markdown(results, compared(results))


def ablated(runs):
    return ablation_markdown(compared(Results(runs)))


def test_a_row_by_hand(table):
    """The level is 1.75 and the optimum 3.5, so the regrets are 0 and 1."""
    runs = [run(table, "default", seed, value) for seed, value in ((1, 3.5), (0, 1.75))]
    (line,) = [line for line in tabled([*runs, runs[0]]).splitlines() if "| default |" in line]
    rival, seeds, done, value, regret, area, distinct, ms = line.strip("| ").split(" | ")
    assert (rival, seeds, done, distinct, ms) == ("default", "2", "4", "100.0 %", "1.00")
    assert value.split()[0] == "2.625"
    assert regret.split()[0] == "0.500"
    assert area.split()[0] == f"{((1 + 1 + 0 + 0) / 4 + (1.5 + 1.5 + 1 + 1) / 4) / 2:.3f}"


def test_tables_and_picture(tmp_path, table):
    runs = [
        run(name, rival, seed, 1.0 + seed, recommended=1.5, done=3 if rival == "gp" else 4)
        for name in (table, "ticket54-noisy")
        for rival in ("default", "tpe", "default:batch=2", "gp")
        for seed in range(4)
    ]
    text = tabled(runs)
    assert "gp: 1; time-capped; 8 of 8 runs ended early by the cap" in text
    assert "27 schemes; optimum 3.500 with problem seed 0." in text
    assert "optimum unknown" in text
    assert "| default - rival | wins/losses | p | p Holm | default (recommended) - rival |" in text
    assert "| base - rival |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| default (recommended) | ")]
    assert row.split(" | ")[5] == ""  # the area, for a recommendation has no curve
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    widths = [line.count("|") for line in lines]
    heads = [n for n, line in enumerate(lines) if line.startswith("| rival")]
    for start, end in itertools.pairwise([*heads, len(lines)]):
        assert len(set(widths[start:end])) == 1
    picture = draw_curves(tmp_path / "a.png", runs)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.read_bytes() == draw_curves(tmp_path / "b.png", runs).read_bytes()


def test_what_a_setting_is_worth_is_the_mean_difference_of_regret_in_thousandths():
    values = [0.60, 0.62, 0.64, 0.66, 0.68, 0.70]

    def of(rival, shift):
        return [run("nk16", rival, seed, value - shift) for seed, value in enumerate(values)]

    ranks = of("default:ranks=false", 0)[:5]
    rest = [*of("default", 0), *of("default:pairs=false", 0.03), *of("paper", 0)]
    text = ablated([*rest, *ranks])
    lost = 0.0
    for seed in range(6):
        level, optimum = make_problem("nk16", seed).scale()
        assert optimum is not None
        lost += 1000 * 0.03 / (optimum - level) / 6
    assert "## default" in text
    assert "## paper" not in text
    assert "5 or 6 seeds." in text
    # p is 2 / 64 and, over two variants, 0.0625: not bold.
    assert f"| pairs=false | +{lost:.0f} | {lost:+.1f} |" in text
    assert "| ranks=false | +0 | +0.0 |" in text
    assert f"| pairs=false | **+{lost:.0f}** |" in ablated(rest)


@pytest.mark.parametrize("rival", ["tpe", "paper:batch=2"])
def test_without_variants_beside_their_sampler_there_is_no_such_table(rival):
    assert ablated([run("nk16", "default"), run("nk16", rival)]) == ""
