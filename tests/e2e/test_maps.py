"""A study whose networks answer with maps, as a user runs it."""

import json
import re

import pytest

from sat_optuna.errors import ConfigError
from sat_optuna.pipeline.folder import open_study
from tests.studies import make_study, sat_optuna, trials

CUED = """
seed = 0
[data]
name = "cued-seg"
limit = 500
[task]
name = "segmentation"
class_weights = "balanced"
[network]
width = 4
blocks = [1, 1, 1]
head = "fcn"
[network.settings]
dilated_stages = 1
[attention]
kinds = ["srm"]
[train]
batch = 64
[pretrain]
epochs = 1
[search]
metric = "miou"
trials = 4
batch = 4
calibration = 32
[retrain]
epochs = 1
seeds = [0, 1, 2]
workers = 1
"""


@pytest.mark.slow
def test_a_segmentation_is_searched_retrained_reported_evaluated_and_exported(tmp_path):
    """On patches, with an output stride that the images' sides are no multiples of."""
    odd = CUED.replace("width", "stem_stride = 3\nwidth").replace("batch", "crop = 11\nbatch", 1)
    folder = make_study(tmp_path, "cued", odd)
    assert "no fault" in sat_optuna("check", "cued", cwd=tmp_path).stdout
    sat_optuna("run", "cued", "--no-mlflow", cwd=tmp_path)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert re.search(
        r"Trained from scratch its test miou is \d+\.\d\d % \(mean of 3 seeds\)", report
    )
    assert "| network | scheme | test miou % | n |" in report
    assert "Last-epoch test miou, the higher the better" in report
    assert "reward of a scheme: validation miou in points in the supernet" in report
    assert "![maps](figures/maps.png)" in report
    assert (folder / "figures" / "maps.png").exists()
    assert "An image stands as its 4 channels, row by row." in report
    assert "| most frequent class everywhere, background | " in report
    assert "| most frequent class of the colour's bin, 13 bins a channel | " in report
    for trial in trials(tmp_path, "cued"):
        assert 0 <= trial["miou"] <= 100
        assert "accuracy" not in trial
    ticket = json.loads((folder / "tickets" / "full.json").read_text())
    assert ticket["backbone_settings"] == {
        "width": 4,
        "stem_stride": 3,
        "blocks": [1, 1, 1],
        "head": "fcn",
        "dilated_stages": 1,
    }
    assert ticket["inputs"]["class_names"] == ["background", *"0123456789"]
    scores = {score["measure"]["name"] for score in ticket["scores"]}
    assert scores == {"miou"}
    printed = sat_optuna(
        "evaluate", "studies/cued/tickets/full.json", "--format", "json", cwd=tmp_path
    ).stdout
    rows = json.loads(printed)
    # The mean over all images is that of the classes: each is in a mask.
    ious = [row["value"] for row in rows if row["metric"] == "iou"]
    (mean,) = (row["value"] for row in rows if row["metric"] == "miou")
    assert len(ious) == 11
    assert mean == pytest.approx(sum(ious) / 11)
    (first,) = (score["value"] for score in ticket["scores"] if score["seed"] == 0)
    assert mean == pytest.approx(first, abs=1e-3)
    refused = sat_optuna(
        "evaluate", "studies/cued/tickets/full.json", "--data", "photos", cwd=tmp_path, code=1
    )
    assert "images of a folder such as photos come with the number of each image" in refused.stderr
    exported = sat_optuna("export", "studies/cued/tickets/full.json", "--to", "onnx", cwd=tmp_path)
    assert "largest difference to the network" in exported.stdout + exported.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'head = "fcn"',
            'head = "deeplabv3"',
            "train.batch = 1 makes a batch of one image, and without attention it needs more in "
            "resnet20 with head 'deeplabv3'",
        ),
        ('head = "fcn"', "", "the network returns shape (1, 2) for one image, and the images com"),
        ('"fcn"', '"fnc"', "network.head is 'fnc'; did you mean 'fcn'?"),
        ("batch", "crop = 40\nbatch", "crop is 40 and the images are "),
        ("batch", "mixup = 0.2\nbatch", "train.mixup is 0.2 and task.name is "),
        ("batch", 'augment = "augmix"\nbatch', "augment is 'augmix' and the task is segmentatio"),
        ('"segmentation"', '"counting"', "[task], search.metric: class_weights is 'balanced' and"),
    ],
)
def test_a_head_that_does_not_fit_the_task_is_a_fault_of_study_toml(tmp_path, old, new, said):
    text = CUED.replace(old, new, 1)
    if "deeplabv3" in new:
        text = text.replace("batch = 64", "batch = 1")
    folder = make_study(tmp_path, "cued", text)
    with pytest.raises(ConfigError) as caught:
        open_study(folder).check()
    assert caught.value.faults[0].startswith(said)
