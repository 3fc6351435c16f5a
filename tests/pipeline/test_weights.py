"""A study whose steps start from trained weights, before and while it is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from sat_optuna.errors import ConfigError, SatOptunaError, SatOptunaWarning, StudyError
from sat_optuna.pipeline.folder import open_study
from tests.studies import make_study

SMALL = """
[data]
name = "imagefolder"
root = "{photos}"
[network]
backbone = "{backbone}"
{weights}
[train]
batch = 8
[search]
trials = 2
batch = 2
calibration = 16
[pretrain]
epochs = 1
start = "weights"
[retrain]
epochs = 1
start = "weights"
"""


def photos(project: Path, classes: int = 3, images: int = 12, side: int = 32) -> Path:
    """A folder of images of each class, in which a stripe says of which."""
    drawn = np.random.default_rng(0)
    for label in range(classes):
        folder = project / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(images):
            pixels = drawn.integers(0, 120, (side, side, 3), dtype=np.uint8)
            row = label * side // classes
            pixels[row : row + 2, :, label % 3] += 120
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return project / "photos"


def study_of(project, *, weights='weights = "trained.pth"', backbone="resnet20", more=""):
    root = photos(project)
    settings = "width = 4\nblocks = [1, 1, 1]\n" if backbone == "resnet20" else ""
    text = SMALL.format(photos=root, backbone=backbone, weights=settings + weights) + more
    return make_study(project, text=text)


def trained(folder, *, classes=7, name="trained.pth"):
    """Leave the weights of a network of other classes in a study's folder."""
    from sat_optuna.backbones import build_backbone

    net = build_backbone("resnet20", in_channels=3, classes=classes, width=4, blocks=(1, 1, 1))
    torch.save(net.state_dict(), folder / name)
    return net.state_dict()


def test_a_study_begins_with_its_file_and_attention_as_the_identity(tmp_path):
    folder = study_of(tmp_path)
    state = trained(folder)
    study = open_study(folder)
    (se,) = study.config.attention.kinds
    assert se.settings == {"reduction": 16, "identity": True}
    with pytest.warns(
        SatOptunaWarning, match="are of 7 classes and the network is of 3: its head"
    ):
        study.check()
    with pytest.warns(SatOptunaWarning, match="of 3: its head, head.2, begins anew"):
        net, loaded = study.parts.loaded_supernet()
    has = net.backbone.state_dict()
    assert loaded.body == state.keys() - {"head.2.weight", "head.2.bias"}
    assert all(torch.equal(has[name], state[name]) for name in loaded.body)
    assert net.started_from == study.weights_digest == loaded.digest
    # By its bytes, wherever it lies; asked not to, attention begins as it does from scratch.
    moved = tmp_path / "elsewhere.pth"
    (folder / "trained.pth").rename(moved)
    text = (folder / "study.toml").read_text().replace("trained.pth", str(moved))
    (folder / "study.toml").write_text(text + "[attention]\nse = { identity = false }\n")
    again = open_study(folder)
    assert again.weights_digest == study.weights_digest
    assert again.config.attention.kinds[0].settings == {"reduction": 16}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("none.pth", r"network.weights is 'none.pth', and .*none.pth cannot be read \(No such"),
        ("module.pth", "hold more than tensors, a pickled module perhaps"),
        ("wide.pth", r"are not of this network: stem.0.weight has shape \(8, 3, 3, 3\), not"),
        ("more.pth", "are not of this network: nothing here is called extra;"),
    ],
)
def test_weights_that_a_study_cannot_begin_with_are_faults_of_study_toml(tmp_path, weights, said):
    from sat_optuna.backbones import build_backbone

    folder = study_of(tmp_path, weights=f'weights = "{weights}"')
    wide = build_backbone("resnet20", in_channels=3, classes=3, width=8, blocks=(1, 1, 1))
    torch.save(wide.state_dict(), folder / "wide.pth")
    torch.save(wide, folder / "module.pth")
    torch.save(trained(folder) | {"extra": torch.ones(1)}, folder / "more.pth")
    with pytest.raises(ConfigError, match=said) as caught:
        open_study(folder).check()
    assert len(caught.value.faults) == 1
    if weights != "none.pth":
        with pytest.raises(SatOptunaError, match=said):
            open_study(folder).pretrain()


def test_a_wrong_setting_of_a_network_is_one_sentence(tmp_path):
    settings = "settings = { drop_path_rat = 0.1 }"
    folder = make_study(tmp_path, text=f'[network]\nbackbone = "timm:resnet18"\n{settings}\n')
    said = r"has no setting 'drop_path_rat'; did you mean 'drop_path_rate'\? it has: drop_rate, dr"
    with pytest.raises(ConfigError, match=said):
        open_study(folder).check()
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("rat =", "rate ="))
    open_study(folder).check()
    net = open_study(folder).parts.fresh_supernet()
    assert net.backbone_settings == {"drop_path_rate": 0.1}
    last: Any = net.backbone.get_submodule("layer4.1.drop_path")
    assert last.drop_prob == pytest.approx(0.1)


def test_settings_reach_the_builder_that_a_plugin_registers(tmp_path):
    text = '[network]\nbackbone = "normed"\nsettings = { gn = 2 }\n'
    text += '[plugins]\nmodules = ["net.py"]\n'
    folder = make_study(tmp_path, text=text)
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "from sat_optuna.backbones import add_backbone, build_backbone\n"
        "def normed(in_channels, classes, gn=1):\n"
        "    net = build_backbone('resnet20', in_channels=in_channels, classes=classes, width=4)\n"
        "    net.stem[1] = nn.GroupNorm(gn, 4)\n"
        "    return net\n"
        "add_backbone('normed', normed, stages=(3, 3, 3))\n"
    )
    assert open_study(folder).check().stages == (3, 3, 3)
    norm: Any = open_study(folder).parts.fresh_supernet().backbone.get_submodule("stem.1")
    assert norm.num_groups == 2
    (folder / "study.toml").write_text(text.replace("gn", "groups"))
    with pytest.raises(ConfigError, match="'normed' has no setting 'groups'; it has: gn; drop it"):
        open_study(folder).check()


def test_trials_that_train_begin_with_the_weights_too(tmp_path):
    folder = study_of(tmp_path, more='objective = "train"\nepochs = 1\nstart = "weights"\n')
    text = (folder / "study.toml").read_text()
    more = 'objective = "train"\nepochs = 1\nstart = "weights"\n'
    text = text.replace(more, "").replace("[search]\n", f"[search]\n{more}")
    (folder / "study.toml").write_text(text)
    state = trained(folder)
    study = open_study(folder)
    with pytest.warns(SatOptunaWarning, match="its head, head.2, begins anew"):
        objective = study.parts.objective
    stem = objective.net.backbone.state_dict()["stem.0.weight"]
    assert torch.equal(stem, state["stem.0.weight"])
    assert objective.scored_with()["started_from"] == study.weights_digest


def test_what_torchvision_offers_is_fetched_once_and_kept(tmp_path, monkeypatch):
    """The file that torchvision would fetch is there already, as after its own download."""
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    offered = cache / "resnet18-f37072fd.pth"
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, offered)
    folder = study_of(tmp_path / "a", weights="pretrained = true", backbone="resnet18")
    study = open_study(folder)
    study.check()  # which fetches nothing
    assert study.weights_digest is None
    with pytest.warns(SatOptunaWarning, match="are of 1000 classes and the network is of 3"):
        net, loaded = study.parts.loaded_supernet()
    assert torch.equal(net.backbone.state_dict()["conv1.weight"], state["conv1.weight"])
    assert open_study(folder).weights_digest == loaded.digest
    offered.unlink()  # it is in work/ now
    with pytest.warns(SatOptunaWarning):
        assert open_study(folder).parts.loaded_supernet()[1].digest == loaded.digest
    study.weights_path.unlink()
    torch.save(state | {"conv1.weight": state["conv1.weight"] + 1}, offered)
    with pytest.raises(StudyError, match="offered now are not those that study 'tiny' began with"):
        open_study(folder).parts.loaded_supernet()
    other = study_of(tmp_path / "b", weights="pretrained = true")
    with pytest.raises(ConfigError, match="nobody offers trained weights of backbone 'resnet20'"):
        open_study(other).check()
