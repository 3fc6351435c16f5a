"""What is checked of a study before anything is trained."""

import numpy as np
import pytest
import torch

from sat_optuna.errors import ConfigError, SatOptunaError, SatOptunaWarning
from sat_optuna.pipeline.folder import nearest_mlruns, open_study
from tests.studies import STUDY, make_study


def checked(project, text):
    return open_study(make_study(project, text=text)).check().stages


@pytest.mark.parametrize("backbone", ["timm:regnety_002", "timm:mobilenetv3_small_050"])
def test_attention_on_top_of_a_networks_own_points_to_own(tmp_path, backbone):
    text = f'[network]\nbackbone = "{backbone}"\n'
    words = r'carry attention of their own, and se comes on top of it; .*kinds = \["own"\]'
    with pytest.warns(SatOptunaWarning, match=words):
        checked(tmp_path / "se", text)
    checked(tmp_path / "own", text + '[attention]\nkinds = ["own"]\n')  # of which nothing is said
    checked(tmp_path / "plain", STUDY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("batch = 32", "batch = 1"),
            "train.batch = 1 makes a batch of one image, and timm:sk",
        ),
        (
            ("calibration = 32", "calibration = 33\ncalibration_chunk = 16"),
            "search.calibration = 33 in chunks of 16 makes a batch of one image, and timm:sk",
        ),
    ],
)
def test_a_module_that_needs_more_than_one_image_is_refused(tmp_path, change, words):
    text = STUDY + '[attention]\nkinds = ["timm:sk"]\n'
    assert checked(tmp_path / "well", text) == (2, 2, 2)
    with pytest.raises(ConfigError, match=words):
        checked(tmp_path / "ill", text.replace(*change))
    assert checked(tmp_path / "se", STUDY.replace(*change)) == (2, 2, 2)  # SE needs no BatchNorm


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
