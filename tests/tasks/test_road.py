"""The whole road of studies that search for another metric, or learn another task."""

import json
import re
import warnings

import optuna
import pytest
import torch

import sat_optuna as sat
from sat_optuna.data import DATASETS
from sat_optuna.errors import ConfigError, SatOptunaError
from sat_optuna.pipeline.folder import open_study
from sat_optuna.search.study import UUID_KEY, run_trials
from sat_optuna.tasks import METRICS
from sat_optuna.tracking import MLflowLog
from tests.studies import STUDY, make_study

OWN = """
import numpy as np
import sat_optuna as sat
from sat_optuna.data import DATASETS
from sat_optuna.data.source import Source


class Own(Source):
    name = "own-TARGETS"

    def load(self, options):
        drawn = np.random.default_rng(0)
        x = drawn.integers(0, 255, (90, 1, 12, 12), dtype=np.uint8)
        y = {
            "multi-hot": x[:, 0, 0, :3] > 127,
            "numbers": x.mean((1, 2, 3)) / 255,
            "masks": np.where(x[:, 0] > 250, 255, x[:, 0] // 100),
            "density": np.stack(
                [sat.density_map(drawn.uniform(0, 11, (n % 4, 2)), (12, 12)) for n in range(90)]
            ),
        }["TARGETS"]
        more = {"targets": "TARGETS", "valid": options.valid, "seed": options.seed}
        return sat.Split.from_arrays(x[:60], y[:60], test=(x[60:], y[60:]), name="own", **more)

    def get(self, root):
        return root


DATASETS.add("own-TARGETS", Own)
"""
SMALL = STUDY.replace("blocks = [2, 2, 2]", "blocks = [1, 1, 1]").replace(
    "trials = 9", "trials = 4"
)


HEADS = {"masks": "fcn", "density": "density"}


def study_of(tmp_path, task, metric, *, weights="none", data="", bonus=0.001):
    text = SMALL.replace(
        "[search]\n",
        f'[task]\nname = "{task}"\nclass_weights = "{weights}"\n[search]\nmetric = "{metric}"\n'
        f"sparsity_weight = {bonus}\n",
    )
    if data in HEADS:
        text = text.replace("[network]", f'[network]\nhead = "{HEADS[data]}"')
        text = text.replace("stem_stride = 4", "stem_stride = 1")
    if data:
        text = text.replace("limit = 300", f'name = "own-{data}"')
        text += '[plugins]\nmodules = ["own.py"]\n'
    folder = make_study(tmp_path, "own", text)
    (folder / "own.py").write_text(OWN.replace("TARGETS", data))
    return folder


@pytest.fixture(autouse=True)
def _known_again():
    yield
    for name in [name for name in DATASETS.single_names() if name.startswith("own-")]:
        DATASETS.remove(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric", "data", "said"),
    [
        (
            "classification",
            "balanced_accuracy",
            "",
            "balanced accuracy in %, the higher",
        ),
        ("multi-label", "map", "multi-hot", "map in %, the higher"),
        ("regression", "mae", "numbers", "mae, the lower"),
        ("segmentation", "miou", "masks", "miou in %, the higher"),
        ("counting", "mae", "density", "mae, the lower"),
    ],
)
def test_a_study_comes_to_a_report_in_its_metric(tmp_path, monkeypatch, task, metric, data, said):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    weights = "balanced" if metric == "balanced_accuracy" else "none"
    folder = study_of(tmp_path, task, metric, weights=weights, data=data)
    result = sat.run_study(folder)
    measure = METRICS.get(metric).measure
    # Tickets: one score on the validation part, three on the test, all in the metric; and where
    # there are labels the training accuracies.
    scores = [score for score in result.tickets["ticket"].scores if score.split != "train"]
    assert [score.split for score in scores] == ["valid", *["test"] * 3]
    trained = len(result.tickets["ticket"].scores) - len(scores)
    assert trained == (3 if task == "classification" else 0)
    assert {score.measure for score in scores} == {measure}
    stored = json.loads((folder / "tickets" / "plain.json").read_text())["scores"][0]["measure"]
    assert stored == {"name": metric, "unit": measure.unit, "better": measure.better}
    # The report names it and its direction, and says nothing that is true of accuracies alone.
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"Trained from scratch its test {measure.title} is " in text
    assert f"| test {measure.title}" in text
    assert f"the {measure.better} the better" in text
    assert not re.search("Wilson's over|Newcombe|naming the largest class|test images right", text)
    # Networks that answer with maps are shown, and held against rules without a network.
    maps = folder / "figures" / "maps.png"
    assert maps.exists() == (data in HEADS)
    assert ("![maps](figures/maps.png)" in text) == (data in HEADS)
    assert ("## Against trivial rules" in text) == (data in HEADS)
    if data in HEADS:
        assert re.search(
            "The ticket is [*][*](not |not shown to be |)(above|better than) the best of these "
            r"rules[*][*] \(.+\): [+\N{MINUS SIGN}][\d.]+ (points|mae) \(95 % interval over 3 ",
            text,
        )
        assert (folder / "report.html").read_text().count("<img") == text.count("![")
    head = (folder / "figures" / "trials.csv").read_text().splitlines()[0]
    assert head == f"search,number,state,scheme,reward,{metric}"
    # Optuna's study, what optuna-dashboard shows of it, and MLflow.
    opened = open_study(folder)
    study = opened.optuna_study()
    assert study.metric_names is not None
    assert measure.title in study.metric_names[0]
    best = study.best_trial
    sparsity = 0.001 * best.user_attrs["sparsity"]
    assert best.value == pytest.approx(measure.points(best.user_attrs[metric]) + sparsity)
    assert ("accuracy" in best.user_attrs) == (task == "classification")
    log = MLflowLog(opened.mlruns)
    experiment = log._store.experiment("own", study.user_attrs[UUID_KEY])
    (parent,) = log._store.runs(experiment, "tags.`sat.kind` = 'study'")
    drawn = {file.path for file in log._store.client.list_artifacts(parent.info.run_id, "figures")}
    assert ("figures/maps.png" in drawn) == (data in HEADS)
    assert parent.data.tags["sat.metric"] == f"{said} the better"
    # All schemes in one table, as the trials scored them.
    found = opened.enumerate()
    assert found.scores.measure == measure
    for trial in study.trials:
        row = found.scores.standing(sat.Scheme.parse(trial.user_attrs["scheme"]))
        assert row.score == trial.user_attrs[metric]
        assert row.reward == pytest.approx(trial.value)
    page = found.page.read_text()
    assert f"| scheme | connections | {metric} |" in page
    again = type(found.scores).read(
        found.table, kinds=["se"], sparsity_weight=opened.config.search.sparsity_weight
    )
    assert [row.score for row in again.best(8)] == [row.score for row in found.scores.best(8)]
    # A figure for which the weights are gone is left out of a report that is written anew.
    if data in HEADS:
        for path in (folder / "work" / "retrain").rglob("*.safetensors"):
            path.unlink()
        written = open_study(folder).report()  # for the table of blocks is of all schemes now
        assert written.new
        assert not maps.exists()
        text = written.path.read_text(encoding="utf-8")
        assert "maps.png" not in text
        assert "## Against trivial rules" in text
        assert not open_study(folder).report().new


@pytest.mark.parametrize(
    ("task", "metric", "more", "said"),
    [
        ("classification", "balanced_acuracy", {}, "search.metric is 'balanced_acuracy'; did you"),
        ("clasification", "accuracy", {}, "task.name is 'clasification'; did you mean 'classifi"),
        (
            "classification",
            "mae",
            {},
            "[task], search.metric: 'mae' is no metric of the task ",
        ),
        ("regression", "accuracy", {}, "[task], search.metric: 'accuracy' is no metric of the "),
        ("regression", "mae", {"weights": "balanced"}, "[task], search.metric: class_weights is"),
        (
            "classification",
            "accuracy",
            {"weights": "even"},
            "task.class_weights is 'even'; ",
        ),
    ],
)
def test_what_study_toml_says_wrong_is_one_sentence(tmp_path, task, metric, more, said):
    folder = study_of(tmp_path, task, metric, **more)
    with pytest.raises(ConfigError) as caught:
        open_study(folder)
    (fault,) = caught.value.faults
    assert fault.startswith(said)


@pytest.mark.parametrize(
    ("task", "metric", "data", "said"),
    [
        ("multi-label", "map", "", "data 'mnist5k' come with the number of each image's class, "),
        (
            "classification",
            "accuracy",
            "numbers",
            "data 'own-numbers' come with a number for ",
        ),
        (
            "classification",
            "class_accuracy_10",
            "",
            "class_accuracy_10 needs images of each ",
        ),
    ],
)
def test_check_says_what_data_and_metric_do_not_fit(tmp_path, task, metric, data, said):
    opened = open_study(study_of(tmp_path, task, metric, data=data))
    with pytest.raises(ConfigError) as caught:
        opened.check()
    (fault,) = caught.value.faults
    assert fault.startswith(said)


def test_a_study_goes_on_with_its_metric_alone():
    data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    net = sat.Supernet(
        "resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4, blocks=(1, 1, 1)
    )
    made = {
        metric: sat.SupernetObjective(net, data, calibration=8, metric=metric, sparsity_weight=1)
        for metric in ("accuracy", "macro_f1")
    }
    for first, second in (("accuracy", "macro_f1"), ("macro_f1", "accuracy")):
        study = optuna.create_study(direction="maximize")
        study.optimize(made[first], n_trials=1)
        (trial,) = study.trials
        assert ("macro_f1" in trial.user_attrs) == (first == "macro_f1")
        with pytest.raises(SatOptunaError, match=r"were scored with another metric than is given"):
            study.optimize(made[second], n_trials=1)


def test_outputs_that_are_no_numbers_are_a_failed_trial_and_no_reward():
    data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.rand(40), targets="numbers")
    net = sat.Supernet(
        "resnet20", attention=["se"], in_channels=3, classes=1, seed=0, width=4, blocks=(1, 1, 1)
    )
    objective = sat.SupernetObjective(
        net, data, calibration=8, task="regression", metric="mae", sparsity_weight=0
    )
    with torch.no_grad():
        net.get_parameter("backbone.head.2.bias").fill_(float("nan"))
    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_trials(
            study,
            objective,
            trials=1,
            batch=1,
            stages=net.stages,
            kinds=["se"],
            on_batch=objective.score_ahead,
        )
    (trial,) = study.trials
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["error"].startswith("mae cannot be computed of 8 images (ValueError: ")
