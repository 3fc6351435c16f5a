"""The README's Python blocks run as they stand, on fewer steps."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.reader import parse_config
from sat_optuna.data.mnist5k import packaged_file
from sat_optuna.pipeline.folder import open_study
from tests import forks
from tests.studies import environment, make_study, sat_optuna

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


(
    RECIPE,
    FOLDED,
    STUDY,
    IMAGES,
    BUDGET,
    OWN_LOOP,
    PRETRAINED,
    NETWORK,
    MODULE,
    DATA,
    METRIC,
    TICKET,
) = blocks("python")
FOLDER, MASKS, POINTS, UNBALANCED, FASTER, WEIGHTS, PLUGIN, OWN_METRIC = blocks("toml")


def run(code, cwd):
    return forks.python("-c", code, cwd=cwd, env=environment())


def parsed(text):
    return parse_config(tomllib.loads(text), source="README.md", known={}).search


SMALL = """
[network]
width = 4
[train]
batch = 8
[pretrain]
epochs = 1
[search]
trials = 3
calibration = 16
[retrain]
epochs = 1
"""


@pytest.fixture
def photos(tmp_path):
    """A folder of 24 photographs for each of two classes: pieces of scikit-learn's two."""
    for name in ("china", "flower"):
        whole = Image.open(packaged_file("scikit-learn", f"sklearn/datasets/images/{name}.jpg"))
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(24):
            left, top = 20 * (number % 6), 80 * (number // 6)
            piece = whole.crop((left, top, left + 100, top + 100))
            piece.save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_folder_of_images_comes_to_a_report(tmp_path, photos):
    assert len(FOLDER.splitlines()) < 15
    text = FOLDER.replace("/home/me/photos", str(photos)) + SMALL
    folder = make_study(tmp_path, "photos", text)
    said = sat_optuna("check", "photos", cwd=tmp_path).stdout
    assert "china 15, flower 15" in said
    sat_optuna("run", "photos", cwd=tmp_path)
    assert (folder / "report.md").exists()


@pytest.fixture
def labelled(tmp_path, photos):
    """The same pieces with a mask of their bright places, and with a dot in each of these."""
    for name, target in (("fields", "masks"), ("herds", "images")):
        for part in ("images", target):
            (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
    lines = ["image,x,y"]
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        piece = Image.open(path).crop((0, 0, 100, 60 if number % 2 else 100))
        bright = np.array(piece.convert("L").resize((6, 5))) > 150
        mask = Image.fromarray(bright).resize(piece.size, Image.Resampling.NEAREST)
        for name in ("fields", "herds"):
            piece.save(tmp_path / name / "images" / f"{number}.jpg")
        Image.fromarray(np.array(mask, np.uint8)).save(tmp_path / f"fields/masks/{number}.png")
        width, height = piece.size
        lines += [
            f"{number}.jpg,{(x + 0.5) * width / 6:.1f},{(y + 0.5) * height / 5:.1f}"
            for y, x in np.argwhere(bright)
        ]
    (tmp_path / "herds" / "points.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def edit(study, *texts):
    """Set keys in a study.toml that `new` wrote, each line in its place, as a user does."""
    written = study.read_text(encoding="utf-8")
    for text in texts:
        for section, keys in re.findall(r"^\[(\w+)\]\n((?:(?!\[).*\n)*)", text, re.MULTILINE):
            for line in keys.splitlines():
                place = rf"(?ms)^(\[{section}\]\n(?:(?!^\[).)*?^){line.split()[0]} = [^\n]*"
                found = re.search(place, written)
                assert found is not None, (section, line)
                written = written[: found.end(1)] + line + written[found.end() :]
    study.write_text(written, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "said", "metric", "none"),
    [
        (
            "fields",
            MASKS,
            "pixels of 0 70.8%, 1 29.2%; always saying 0 would be right on ",
            "miou",
            "class",
        ),
        (
            "herds",
            POINTS,
            "251 dots, 0 to 30 an image; always saying 8.37 would be off by ",
            "mae",
            "dots",
        ),
    ],
)
def test_ones_own_masks_and_points_come_to_a_report(labelled, name, text, said, metric, none):
    assert len(text.splitlines()) < 18
    sat_optuna("new", name, cwd=labelled)
    study = labelled / "studies" / name / "study.toml"
    quick = SMALL.replace("width = 4", "width = 4\nstem_stride = 2\nblocks = [1, 1, 1]")
    quick += "seeds = [0, 1, 2]\n"
    own = text.replace(f"/home/me/{name}", str(labelled / name))
    edit(study, own.replace("size = 64", "size = 30"), quick)
    printed = sat_optuna("check", name, cwd=labelled).stdout
    assert f"train: 30 images, {said}" in printed
    assert "valid: 8 images, " in printed
    assert "test: 10 images\n" in printed
    assert "images: 30 x 30 pixels, 3 channels" in printed
    assert (
        "data: the images, of 60 x 100 to 100 x 100 pixels, are scaled to a longer side of 30 and "
        f"filled up on the right and below to 30 x 30, with black and no {none}"
    ) in printed
    sat_optuna("run", name, cwd=labelled)
    report = (study.parent / "report.md").read_text(encoding="utf-8")
    assert f"its test {metric} is" in report


def test_each_way_to_a_faster_network_is_a_study_without_a_fault():
    lines = FASTER.splitlines()
    assert lines[0] == "[search]"
    ways = [parsed(f"[search]\n{line.removeprefix('# ')}") for line in lines[1:]]
    assert [way.max_latency_share for way in ways] == [0.5, 1.0, 1.0]
    assert [way.max_latency_ms for way in ways] == [0.0, 12.0, 0.0]
    assert [way.objectives for way in ways] == [(), (), ("accuracy", "latency_ms")]


@pytest.mark.slow
def test_a_network_and_a_folder_come_to_a_table_of_blocks(tmp_path, photos):
    assert len(RECIPE.splitlines()) <= 18
    code = RECIPE.replace("/home/me/photos", str(photos)).replace("size=64", "size=32")
    code = code.replace("epochs=5", "epochs=1").replace("data)))", "data, calibration=16)))")
    quick = code.replace("sat.pretrain(", "small = sat.TrainConfig(batch=8)\nsat.pretrain(")
    done = run(quick.replace("seed=0, on_event", "seed=0, config=small, on_event"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^s\d\.b\d\d -?[\d.]+ -?[\d.]+ -?[\d.]+$", done.stdout, re.M)) == 8


@pytest.mark.slow
def test_a_trained_network_and_a_folder_tell_which_modules_may_go(tmp_path, photos):
    assert len(FOLDED.splitlines()) <= 18
    model = timm.create_model("seresnet18", num_classes=2)
    torch.nn.init.constant_(model.get_buffer("bn1.running_mean"), 0.1)  # as training moves it
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    code = FOLDED.replace("/home/me/photos", str(photos)).replace("size=64", "size=32")
    done = run(code.replace("objective, scores)", "objective, scores, points=[100.0])"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100.0 8 00-00-00-00 Summary(mean=")


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    code = f"{STUDY}\n{BUDGET}\n"
    code += "limited = optuna.create_study(direction='maximize', sampler=within)\n"
    code += "limited.optimize(sat.SupernetObjective(net, data), n_trials=2)\n"
    code += "assert all(t.user_attrs['params'] <= 68_600 for t in limited.trials)\n"
    shorter = code.replace("epochs=10", "epochs=1").replace("n_trials=60", "n_trials=3")
    assert shorter.count("epochs=1,") == 2
    assert "n_trials=3" in shorter
    done = run(shorter, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^[01]{3}-[01]{3}-[01]{3} Cost\(params=\d+, macs=\d+", done.stdout, re.M)
    assert (tmp_path / "mlruns" / "mlflow.db").exists()


def test_ones_own_images_as_arrays_and_loaders(tmp_path):
    done = run(IMAGES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Evaluation(accuracy=" in done.stdout


def test_a_pretrained_network_keeps_its_logits(tmp_path):
    done = run(PRETRAINED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Cost(params=")


@pytest.mark.slow
def test_ones_own_loop(tmp_path):
    done = run(OWN_LOOP, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Cost(params=")


def test_a_tickets_network_is_ones_own(tmp_path):
    done = run(TICKET, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "00-01-00-01",
        "torch.Size([1, 2, 2]) torch.Size([1, 512, 2, 2])",
    ]


def test_the_plugin_that_the_readme_shows_is_a_study(tmp_path):
    folder = make_study(tmp_path, "own", PLUGIN)
    text = NETWORK + MODULE + DATA
    (folder / "my_net.py").write_text(text)
    said = sat_optuna("check", "own", cwd=tmp_path).stdout
    assert "4 blocks in stages (4,), 16 schemes" in said
    assert "train: 160 images, upright 80, lying 80" in said


def test_each_way_to_take_a_ticket_elsewhere_is_a_study_without_a_fault(tmp_path, monkeypatch):
    section = README.split("## Take a ticket elsewhere\n")[1].split("\n## ")[0]
    lines = re.findall(r"^sat-optuna (transfer .*)$", section, re.MULTILINE)
    assert len(lines) == 2
    for folder in ("studies/quickstart/tickets", "mlruns"):
        (tmp_path / folder).mkdir(parents=True)
    ticket = "studies/quickstart/tickets/ticket.json"
    (tmp_path / ticket).write_bytes((Path(__file__).parents[2] / ticket).read_bytes())
    monkeypatch.chdir(tmp_path)
    for line in lines:
        done = CliRunner().invoke(group, [*line.split(), "--no-run"])
        assert done.exit_code == 0, done.output
    for name in ("cued-seg", "cued-digits"):
        assert open_study(f"transfer-quickstart-{name}").check().stages


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_run_it_and_test_it_are_one_line_each(heading):
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    first = re.search(r"```\w*\n(.*?)```", section, flags=re.DOTALL)
    assert first is not None
    assert len(first.group(1).strip().splitlines()) == 1


@pytest.mark.slow
def test_unbalanced_classes_are_three_keys_and_a_metric_of_ones_own_a_few_lines(tmp_path):
    assert sum("=" in line for line in UNBALANCED.splitlines()) == 3
    assert len(METRIC.splitlines()) <= 30
    for name, text in (("unbalanced", UNBALANCED), ("kappa", OWN_METRIC)):
        small = re.sub(r"\[search\]\n", "", SMALL)  # the table is the recipe's own
        keys = "\n".join(["", *re.findall(r"^(?:trials|calibration) = \d+$", SMALL, re.MULTILINE)])
        small = small.replace(keys, "")
        text = text.replace("[search]", "[search]" + keys)
        folder = make_study(tmp_path, name, text + "[data]\nlimit = 60\n" + small)
        (folder / "my_metric.py").write_text(METRIC)
        sat_optuna("pretrain", name, cwd=tmp_path)
        said = sat_optuna("search", name, cwd=tmp_path).stdout
        metric = {"unbalanced": "balanced accuracy", "kappa": "kappa"}[name]
        assert f" of {metric}, " in said
