"""An Evaluator scores on Datasets and DataLoaders as on the package's own images."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from sat_optuna.data.images import TensorImages
from sat_optuna.errors import DataError, SatOptunaWarning
from sat_optuna.evaluate import Evaluator
from tests.networks import SHAPE, images, tiny_supernet

X, Y = images(23), torch.arange(23) % 5
ITEMS = TensorDataset(X, Y)


@pytest.mark.parametrize("given", [ITEMS, DataLoader(ITEMS, 4), DataLoader(ITEMS, 64)])
def test_the_scores_are_those_of_the_arrays(given):
    net = tiny_supernet()
    held = Evaluator(net, TensorImages(X, Y), chunk=7)
    schemes = held.all_schemes()[::9]
    found = Evaluator(net, given, chunk=7).score_many(schemes)
    assert found == held.score_many(schemes)
    assert len({evaluation.loss for evaluation in found.values()}) > 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X, "^a Tensor was given where labelled images are wanted; give a part of a Split such"),
        (
            DataLoader(ITEMS, 4, shuffle=True),
            "reads with RandomSampler was given to score on; giv",
        ),
        (
            TensorDataset(X, Y + 1),
            "have the label 5 and the network 5 classes; number the classes",
        ),
        (TensorDataset(X[:, :1], Y), rf"shape \(1, {SHAPE[1]}, {SHAPE[2]}\) do not go through th"),
    ],
)
def test_what_cannot_be_scored_on_is_one_sentence(given, said):
    with pytest.raises(DataError, match=said):
        Evaluator(tiny_supernet(), given)


@pytest.mark.parametrize("labels", [[3] * 17 + [0] * 6, [3] * 12 + [0] * 11])
def test_where_all_schemes_score_the_majority_share_it_is_said(labels):
    net = tiny_supernet()
    with torch.no_grad():  # whatever the image, class 3 is answered
        last = [part for part in net.backbone.modules() if isinstance(part, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(torch.eye(5)[3])
    share = f"{100 * labels.count(3) / 23:.2f} %"
    with pytest.warns(SatOptunaWarning, match=rf"has the accuracy {share}, the majority class's"):
        Evaluator(net, TensorImages(X, torch.tensor(labels))).score_all()
