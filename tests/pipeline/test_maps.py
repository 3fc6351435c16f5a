"""What a report of a study whose networks answer with maps takes from the study's folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import sat_optuna as sat
from sat_optuna.data import DATASETS
from sat_optuna.evidence.results import RetrainResult, write_result
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.maps import map_results
from sat_optuna.pipeline.outcome import Outcome
from sat_optuna.pipeline.theory import theory_lines
from sat_optuna.supernet.materialise import build_network
from sat_optuna.ticket import Score
from sat_optuna.training.checkpoint import save_checkpoint
from tests.studies import STUDY, make_study
from tests.tasks.test_road import study_of

SCHEMES = {"ticket": "0-0-0", "plain": "0-0-0", "full": "1-1-1", "random-density": "1-0-0"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Networks as their seeds draw them, kept as a retraining keeps them."""
    folder = study_of(tmp_path_factory.mktemp("maps"), "segmentation", "miou", data="masks")
    study = open_study(folder)
    schemes = {role: sat.Scheme.parse(text) for role, text in SCHEMES.items()}
    made = Outcome(study, study.parts.ticket(schemes["ticket"]), schemes)
    for job in (job for job in made.jobs if job.seed == 0):
        network = build_network(study.parts.ticket(job.scheme), seed=job.seed)
        tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
        job.weights_path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(job.weights_path, tensors, {})
        result = RetrainResult(job.scheme, job.seed, float("nan"), 30, (), metric=7.5)
        write_result(job, result)
        made.add(result)
    yield made
    DATASETS.remove("own-masks")


@pytest.fixture(scope="module")
def tickets(outcome):
    measure = outcome.study.parts.metric.measure
    scores = tuple(
        Score(split="test", value=value, seed=seed, epochs=1, measure=measure)
        for seed, value in ((1, 9.0), (0, 7.0), (2, 8.0))
    )
    return {
        role: replace(outcome.study.parts.ticket(scheme, role=role), scores=scores)
        for role, scheme in outcome.schemes.items()
    }


def test_networks_of_the_first_seed_answer_the_test_images(outcome, tickets):
    found = map_results(outcome, tickets).examples
    assert found is not None
    assert found.test == {"ticket = plain": "miou 7.00 %", "full": "miou 7.00 %"}
    assert "networks of seed 0." in str(found)
    test = outcome.study.parts.data.test
    for label, role in (("ticket = plain", "plain"), ("full", "full")):
        network = build_network(tickets[role], seed=0).eval()
        for shown in found.shown:
            ((x, truth),) = test.batches(torch.tensor([shown.number]), 1)
            assert np.array_equal(shown.truth, truth[0].numpy())
            assert np.array_equal(shown.answers[label], network(x)[0].argmax(0).numpy())
            assert np.array_equal(shown.picture[..., 0], test.images[shown.number, 0].numpy())


def test_the_theory_speaks_of_maps_and_in_their_metric(outcome, tickets):
    study = outcome.study
    study.tickets.mkdir(exist_ok=True)
    paths = []
    for role in ("ticket", "full"):
        trained = replace(tickets[role], scores=tickets[role].scores[1:])  # seed 0 first
        paths.append(trained.save(study.tickets / f"{role}.json"))
    bound, order, rival, alike = theory_lines(study)
    assert bound.startswith("T1: 3 modules became constants (`0-0-0` stays); the outputs change")
    assert "never exceeded" in bound
    assert order.startswith(("T1: dispersion against miou lost", "T1: too few blocks to tell"))
    assert (rival[:26], alike[:4]) == ("T1: the dispersion ticket,", "T4: ")
    kept = json.loads((study.folder / "evidence" / "theory.json").read_text())
    assert kept["decided"]["metric"] == "miou"
    assert kept["bound"]["holds"]
    for path in paths:
        path.unlink()


def test_without_weights_that_the_retraining_made_no_image_is_shown(outcome, tickets):
    job = next(j for j in outcome.jobs if str(j.scheme) == "1-1-1" and j.seed == 0)
    kept = job.weights_path.read_bytes()
    for other in (kept + b" ", None):
        if other is None:
            job.weights_path.unlink()
        else:
            job.weights_path.write_bytes(other)
        assert outcome.weights_of(job.scheme, job.seed) is None
        found = map_results(outcome, tickets)
        assert found.examples is None
        assert len(found.rules) == 4
    job.weights_path.write_bytes(kept)
    assert outcome.weights_of(job.scheme, job.seed) == job.weights_path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dataset_fingerprint": "other"}, "for the data 'own' are not those of the retraining"),
        ({"images": {"train": 40, "test": 999}}, "for the data 'own' are not those of the retr"),
        ("gone", "for the data cannot be read (image folder "),
    ],
)
def test_nothing_is_told_of_other_data_than_those_of_the_scores(
    outcome, tickets, tmp_path, changed, said
):
    """Rules and images of data that changed since would stand beside scores on other images."""
    if changed == "gone":
        text = STUDY.replace("limit = 300", f'name = "pointfolder"\nroot = "{tmp_path / "no"}"')
        text = text.replace("[search]", '[task]\nname = "counting"\n[search]\nmetric = "mae"')
        study = open_study(make_study(tmp_path, "gone", text))
        outcome = Outcome(study, tickets["ticket"], outcome.schemes)
    else:
        tickets = {role: replace(ticket, **changed) for role, ticket in tickets.items()}
    found = map_results(outcome, tickets)
    assert (found.rules, found.examples) == ((), None)
    heading, text = found.parts({"ticket": [1.0]}, tickets["ticket"].scores[0].measure)
    assert heading == "## Maps"
    assert text.startswith("Neither test images nor trivial rules are told, ")
    assert said in text
    assert text.endswith(f"run: sat-optuna report {outcome.study.argument}")


def test_of_the_data_of_the_scores_all_is_told(outcome, tickets):
    images = {"train": 40, "test": len(outcome.study.parts.data.test)}
    found = map_results(outcome, {r: replace(t, images=images) for r, t in tickets.items()})
    assert (len(found.rules), found.lacking) == (4, "")
