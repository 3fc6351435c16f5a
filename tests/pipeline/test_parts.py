"""What is checked of a study before anything is trained."""

import pytest

from sat_optuna.errors import ConfigError, SatOptunaWarning
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
