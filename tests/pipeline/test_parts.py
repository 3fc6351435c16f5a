"""What is checked of a study before anything is trained."""

import numpy as np
import pytest
import torch

from sat_optuna.attention import ATTENTION
from sat_optuna.errors import ConfigError, SatOptunaError, SatOptunaWarning
from sat_optuna.pipeline.folder import nearest_mlruns, open_study
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from tests.data.formats import write_images
from tests.studies import STUDY, make_study


def checked(project, text):
    return open_study(make_study(project, text=text)).check().stages


@pytest.mark.parametrize(
    "backbone",
    [
        "timm:regnety_002",
        pytest.param("timm:mobilenetv3_small_050", marks=pytest.mark.slow),
    ],
)
def test_attention_on_top_of_a_networks_own_points_to_own(tmp_path, backbone):
    text = f'[network]\nbackbone = "{backbone}"\n'
    words = r'carry attention of their own, and se comes on top of it; .*kinds = \["own"\]'
    with pytest.warns(SatOptunaWarning, match=words):
        checked(tmp_path / "se", text)
    checked(tmp_path / "own", text + '[attention]\nkinds = ["own"]\n')  # of which nothing is said


@pytest.mark.slow
def test_check_refuses_a_batch_of_one_image_just_where_it_cannot_be_trained_on(tmp_path):
    """Of all modules that are registered, those of timm too."""
    kinds = ATTENTION.names()
    net = Supernet("resnet20", attention=kinds, in_channels=1, classes=2, blocks=(1, 1, 1), seed=0)
    image, needs = torch.zeros(1, 1, 28, 28), []
    for choice, kind in enumerate(kinds, start=1):
        try:
            net.train()(image, Scheme.uniform(net.stages, choice))
        except ValueError:
            needs.append(kind)
    assert needs == ["timm:sk"]
    text = "[train]\nbatch = 1\n[network]\nblocks = [1, 1, 1]\n[attention]\nkinds = {}\n"
    for kind in needs:
        with pytest.raises(ConfigError, match=rf"train\.batch = 1 makes .*, and {kind} "):
            checked(tmp_path / kind, text.format(f'["{kind}"]'))
        enough = text.format(f'["{kind}"]').replace("batch = 1", "batch = 2")
        assert checked(tmp_path / f"{kind} of two", enough) == (1, 1, 1)
    rest = [kind for kind in kinds if kind not in needs]
    assert checked(tmp_path / "rest", text.format(rest)) == (1, 1, 1)


@pytest.mark.parametrize("data", ["mnist5k", "a folder"])
def test_a_batch_of_one_image_is_refused_before_anything_is_trained(tmp_path, data):
    text = STUDY.replace("batch = 32", "batch = 1")
    if data == "a folder":  # whose images' size is known once they are there
        write_images(tmp_path, counts={"cat": 4, "dog": 4}, pixels=(32, 32))
        write_images(tmp_path, counts={"cat": 1, "dog": 1}, pixels=(32, 32), part="test")
        text = text.replace("limit = 300", f'name = "imagefolder"\nroot = "{tmp_path}"')
    with_sk = make_study(tmp_path / "sk", text=text + '[attention]\nkinds = ["timm:sk"]\n')
    for call in (open_study(with_sk).check, open_study(with_sk).pretrain):
        with pytest.raises(SatOptunaError, match=r"train\.batch = 1 makes .*, and timm:sk needs"):
            call()
    assert checked(tmp_path / "se", text) == (2, 2, 2)


def test_a_last_calibration_image_alone_is_no_reason_to_refuse(tmp_path):
    text = STUDY.replace("calibration = 32", "calibration = 33\ncalibration_chunk = 16")
    study = open_study(make_study(tmp_path, text=text + '[attention]\nkinds = ["timm:sk"]\n'))
    study.check()
    study.pretrain()
    assert study.search(mlflow=False).left == 0


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:0 "])
def test_a_study_computes_on_the_device_that_it_names(tmp_path, device):
    study = open_study(make_study(tmp_path / "cpu", text='device = "cpu"\n' + STUDY))
    study.check()
    assert {p.device for p in study.parts.fresh_supernet().parameters()} == {torch.device("cpu")}
    ill = open_study(make_study(tmp_path / "ill", text=f'device = "{device}"\n' + STUDY))
    for use in (ill.check, ill.pretrain):
        with pytest.raises(SatOptunaError, match=f"device '{device}'.* give one of those here: c"):
            use()


def test_a_policy_of_augmentation_wants_pictures(tmp_path):
    for label in ("one", "two"):
        (tmp_path / "bands" / label).mkdir(parents=True)
        for number in range(10):
            bands = np.full((8, 8, 4), number, dtype=np.uint8)
            np.save(tmp_path / "bands" / label / f"{number}.npy", bands)
    text = f'[data]\nname = "imagefolder"\nroot = "{tmp_path / "bands"}"\n[train]\nbatch = 4\n'
    assert checked(tmp_path / "well", text) == (3, 3, 3)
    words = "train.augment is 'augmix', which changes images of 1 or 3 channels, and these have 4;"
    with pytest.raises(ConfigError, match=words):
        checked(tmp_path / "ill", text + 'augment = "augmix"\n')


FOLDED = STUDY.replace("epochs = 2", "epochs = 2\nconnect = 1.0").replace(
    "[search]", '[search]\nobjective = "folded"'
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('[attention]\nkinds = ["sge"]\nsge = { groups = 4 }\n', "sge at stage 1, block 1 is no"),
        ('[attention]\nkinds = ["dia"]\n', "dia at stage 1, block 1 is no gate for each channel"),
        ('[attention]\nkinds = ["se", "eca"]\n', "2 kinds of attention given .se, eca., and fold"),
    ],
)
def test_what_cannot_be_folded_is_said_before_anything_is_trained(tmp_path, change, words):
    assert checked(tmp_path / "well", FOLDED) == (2, 2, 2)
    assert checked(tmp_path / "other", STUDY + change) == (2, 2, 2)
    with pytest.raises(ConfigError, match=words):
        checked(tmp_path / "ill", FOLDED + change)


@pytest.mark.parametrize("mark", ["studies", "pyproject.toml", ".git"])
def test_mlruns_of_a_users_home_are_not_taken_for_a_projects(tmp_path, mark):
    (tmp_path / "mlruns").mkdir()
    project = tmp_path / "project"
    inside = project / "a" / "b"
    inside.mkdir(parents=True)
    assert nearest_mlruns(inside) is None  # in no project
    (project / mark).mkdir()
    assert nearest_mlruns(inside) is None
    (project / "mlruns").mkdir()
    assert nearest_mlruns(inside) == project / "mlruns"
    assert nearest_mlruns(tmp_path) == tmp_path / "mlruns"
