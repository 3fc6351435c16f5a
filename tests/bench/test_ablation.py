"""The table of what each part is worth, by hand."""

import pytest

from sat_optuna.bench.ablation import ablation_markdown
from sat_optuna.bench.comparison import compared, scales
from sat_optuna.bench.runs import Run


def runs_of(problem, rival, values):
    return [
        Run(problem, rival, seed, 200, "1", 200, ((1, value),), value, None, 1.0, 1.0, 1.0)
        for seed, value in enumerate(values)
    ]


def test_a_cell_is_the_mean_difference_of_regret_in_thousandths():
    values = [0.60, 0.62, 0.64, 0.66, 0.68, 0.70]
    runs = [
        *runs_of("nk16", "default", values),
        *runs_of("nk16", "default:pairs=false", [value - 0.03 for value in values]),
        *runs_of("nk16", "default:ranks=false", values[:5]),
        *runs_of("nk16", "paper", values),
    ]
    text = ablation_markdown(runs, compared(runs)) or ""
    scale = scales(runs)
    spans = [scale["nk16", seed][1] - scale["nk16", seed][0] for seed in range(6)]
    lost = sum(1000 * 0.03 / span for span in spans) / 6
    assert "## default" in text
    assert "## paper" not in text
    assert "5 or 6 seeds." in text
    # p is 2 / 64 and, over two variants, 0.0625: not bold.
    assert f"| pairs=false | +{lost:.0f} | {lost:+.1f} |" in text
    assert "| ranks=false | +0 | +0.0 |" in text
    alone = [run for run in runs if "ranks" not in run.rival]
    assert f"| pairs=false | **+{lost:.0f}** |" in (
        ablation_markdown(alone, compared(alone)) or ""
    )


def test_without_variants_there_is_no_table():
    runs = runs_of("nk16", "default", [0.5]) + runs_of("nk16", "tpe", [0.4])
    assert ablation_markdown(runs, compared(runs)) is None


@pytest.mark.parametrize("base", ["default", "paper"])
def test_a_variant_without_its_sampler_is_left_out(base):
    runs = runs_of("nk16", f"{base}:batch=2", [0.5])
    assert ablation_markdown(runs, compared(runs)) is None
