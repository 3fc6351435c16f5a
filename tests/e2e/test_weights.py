"""The whole road from trained weights, as the README says it, in real processes."""

import pytest
import torch
import torchvision

import sat_optuna as sat
from sat_optuna.backbones.weights import WeightsError
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.files import sha256_of
from sat_optuna.ticket import ROLES, Ticket
from sat_optuna.training.checkpoint import load_tensors
from tests.e2e.test_readme import WEIGHTS
from tests.pipeline.test_weights import photos
from tests.studies import make_study, sat_optuna

SMALL = """epochs = 1
[data]
name = "imagefolder"
root = "{photos}"
[search]
trials = 2
batch = 2
calibration = 32
"""


@pytest.mark.slow
def test_a_thousand_classes_go_the_road_of_ten(tmp_path):
    root = photos(tmp_path, classes=10, images=7, side=16)
    text = WEIGHTS.replace("[train]", "[train]\nbatch = 16").replace(
        "[pretrain]", "[pretrain]\nepochs = 1"
    )
    folder = make_study(tmp_path, "fine", text + SMALL.format(photos=root))
    state = torchvision.models.resnet18().state_dict()  # as those that were trained on ImageNet
    torch.save(state | {"more": torch.ones(1)}, folder / "resnet18.pth")
    said = sat_optuna("run", "fine", cwd=tmp_path, code=1).stderr
    assert said.count("are not of this network: nothing here is called more; give those") == 1
    assert "Traceback" not in said
    torch.save(state, folder / "resnet18.pth")
    digest = sha256_of(folder / "resnet18.pth")
    words = "are of 1000 classes and the network is of 10: its head, fc, begins anew"
    assert words in sat_optuna("check", "fine", cwd=tmp_path).stderr
    assert words in sat_optuna("run", "fine", "--no-mlflow", cwd=tmp_path).stderr
    # After one epoch at a hundredth of a usual rate the weights are still near those given.
    (first, *_), body = sorted((folder / "work").glob("retrain/*/*.safetensors")), "layer1.0.conv1"
    for path in (first, folder / "work" / "supernet.safetensors"):
        tensors = load_tensors(path)
        (name,) = [n for n in tensors if n.startswith("model.") and n.endswith(f"{body}.weight")]
        moved = (tensors[name] - state[f"{body}.weight"]).norm() / state[f"{body}.weight"].norm()
        assert 0 < moved < 0.5
    tickets = [Ticket.load(folder / "tickets" / f"{role}.json") for role in ROLES]
    assert {ticket.weights for ticket in tickets} == {digest}
    assert tickets[0].attention[0].settings["identity"] is True
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "## From the given weights, on train + validation" in report
    assert "scratch" not in report
    assert f"trained weights: SHA-256 `{digest[:16]}`" in report
    # All is done; what the weights are called does not matter, what is in them does.
    again = sat_optuna("run", "fine", "--no-mlflow", cwd=tmp_path).stdout
    assert again.count("done already") == 5
    sat_optuna("export", "studies/fine/tickets/ticket.json", "--to", "safetensors", cwd=tmp_path)
    (exported,) = (folder / "exports").iterdir()
    network = sat.load_ticket(exported)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    torch.save(state | {"fc.bias": torch.ones(1000)}, folder / "resnet18.pth")
    said = sat_optuna("run", "fine", "--no-mlflow", cwd=tmp_path, code=1).stderr
    assert "was made with another configuration: network.sha256: " in said
    assert f"'{digest}' is stored" in said


@pytest.mark.slow
def test_retrain_from_python_takes_the_weights_of_the_ticket(tmp_path):
    data = sat.load_dataset("imagefolder", root=photos(tmp_path), seed=0)
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    se = sat.AttentionSpec(kind="se", settings={"identity": True})
    net = sat.Supernet("resnet18", attention=[se], in_channels=3, classes=3, seed=0)
    with pytest.warns(SatOptunaWarning, match="begins anew"):
        loaded = sat.load_weights(net, path)
    config = sat.TrainConfig(batch=8, lr=0.01, lr_body=1e-6)
    sat.pretrain(net, data, epochs=1, seed=0, config=config, body=loaded.body)
    import optuna

    study = optuna.create_study(direction="maximize")
    study.optimize(sat.SupernetObjective(net, data, calibration=16), n_trials=1)
    ticket = sat.best_ticket(study)
    assert ticket.weights == loaded.digest
    with pytest.warns(SatOptunaWarning, match="begins anew"):
        model = sat.retrain(ticket, data, epochs=1, seed=0, config=config, weights=path)
    given = torch.load(path, weights_only=True)["conv1.weight"]
    (kept,) = [v for k, v in model.state_dict().items() if k.endswith("conv1.weight")][:1]
    torch.testing.assert_close(kept, given, rtol=0, atol=1e-3)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with (
        pytest.warns(SatOptunaWarning, match="begins anew"),
        pytest.raises(WeightsError, match="are not those that the ticket was found with: their S"),
    ):
        sat.retrain(ticket, data, epochs=1, seed=0, config=config, weights=path)
