"""A study that brings its own network, module and data set, as a user runs it."""

import json

import pytest
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.config import StudyConfig
from sat_optuna.files import sha256_of
from sat_optuna.scheme import Scheme
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study
from sat_optuna.ticket import Ticket
from tests.networks import tiny_supernet
from tests.studies import make_study, sat_optuna, trials
from tests.tickets import ticket_of

PLUGIN = '''
"""A network, a module and a data set of one's own."""

import numpy as np
import torch
from torch import nn

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention
from sat_optuna.backbones import add_backbone
from sat_optuna.backbones.tables import BlockSplit, add_block, add_network
from sat_optuna.data import DATASETS
from sat_optuna.data.source import ArraySource


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 4, 4)
        self.blocks = nn.ModuleList(Residual(4) for _ in range(3))
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def branch(block, x):
    return block.norm(block.conv(x)), x


def merge(block, features, shortcut):
    return torch.relu(features + shortcut)


def channels(block):
    return block.conv.out_channels


def stem(net, x):
    return net.stem(x)


def stages(net):
    return [net.blocks]


def head(net, x):
    return net.fc(x.mean((2, 3)))


def build(*, in_channels, classes):
    return Net(in_channels, classes)


class Scale(Attention):
    def __init__(self, channels, *, start=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, features, state=None):
        return features * self.scale.to(features.dtype), state


class Blobs(ArraySource):
    name = "blobs"
    shape = (1, 16, 16)

    def class_names(self, root):
        return ("dark", "bright")

    def training_part(self, root):
        return self._part(0, 120)

    def test_part(self, root):
        return self._part(1, 40)

    def get(self, root):
        return root

    def _part(self, seed, count):
        labels = np.arange(count) % 2
        noise = np.random.default_rng(seed).integers(0, 120, (count, 1, 16, 16))
        return (noise + 100 * labels[:, None, None, None]).astype(np.uint8), labels


add_block(Residual, BlockSplit(branch, merge, channels))
add_network(Net, stem=stem, stages=stages, head=head)
add_backbone("mine", build, stages=(3,))
ATTENTION.add("scale", Scale)
DATASETS.add("blobs", Blobs)
'''

TOML = """
[plugins]
modules = ["my_net.py"]
[data]
name = "blobs"
[network]
backbone = "mine"
[attention]
kinds = ["scale"]
scale = { start = 0.5 }
[train]
batch = 16
lr = 0.05
[pretrain]
epochs = 1
[search]
trials = 4
batch = 2
calibration = 16
[retrain]
epochs = 1
workers = 2
"""


@pytest.fixture
def project(tmp_path):
    make_study(tmp_path, "own", TOML)
    (tmp_path / "studies" / "own" / "my_net.py").write_text(PLUGIN)
    return tmp_path


def test_check_knows_what_the_plugin_registers(project):
    said = sat_optuna("check", "own", cwd=project).stdout
    assert "has no fault: 3 blocks in stages (3,), 8 schemes" in said


@pytest.mark.slow
def test_the_whole_road_runs_on_it_in_every_process(project):
    sat_optuna("run", "own", "--no-mlflow", cwd=project)
    assert len(trials(project, "own")) == 4
    ticket = Ticket.load(project / "studies" / "own" / "tickets" / "full.json")
    assert (ticket.backbone, ticket.dataset, str(ticket.scheme)) == ("mine", "blobs", "111")
    assert ticket.config["plugins"]["modules"] == ["my_net.py"]
    digest = sha256_of(project / "studies" / "own" / "my_net.py")
    assert ticket.config["plugins"]["sha256"] == [digest]
    shown = sat_optuna(
        "show", "studies/own/tickets/full.json", "--no-latency", "--format", "json", cwd=project
    )
    assert json.loads(shown.stdout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is no Python file; correct [plugins] modules"),
        ("import nothing_of_that_name", "fails with ModuleNotFoundError: No module named"),
        ("x = ", "fails with SyntaxError"),
    ],
)
def test_a_broken_plugin_is_one_sentence(project, text, said):
    plugin = project / "studies" / "own" / "my_net.py"
    plugin.unlink()
    if text is not None:
        plugin.write_text(text)
    done = sat_optuna("check", "own", cwd=project, code=1)
    assert said in done.stderr
    running, _ = done.stderr.splitlines()
    assert running == f"running the study's plugins: {plugin}"


@pytest.fixture
def marked(project):
    """A study whose plugin leaves a file where it is run, and a search that was begun."""
    folder = project / "studies" / "own"
    plugin = folder / "my_net.py"
    plugin.write_text(f"open({str(project / 'ran')!r}, 'w').close()\n" + plugin.read_text())
    create_study(
        open_storage(folder / "study.db"),
        "own",
        config=StudyConfig(),
        sampler=build_sampler("random", seed=0, batch=1),
    )
    ticket_of(tiny_supernet(), Scheme.parse("10-010-1")).save(folder / "tickets" / "ours.json")
    return project


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("trials", "own"), 0),
        (("doctor", "own"), 0),
        (("ls", "studies"), 0),
        (("ls", "backbones"), 0),
        (("ticket", "own"), 1),  # no trial yet
        (("show", "studies/own/tickets/ours.json", "--no-latency"), 0),
        (("export", "studies/own/tickets/ours.json", "--to", "onnx"), 1),  # never retrained
    ],
)
def test_looking_runs_no_code_of_the_study(marked, monkeypatch, arguments, code):
    monkeypatch.chdir(marked)
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == code, done.output
    assert "no search was run" not in done.output
    if arguments[0] != "export":  # which compares study.toml, to say what to run
        assert not (marked / "ran").exists()


def test_what_runs_code_says_so_first(marked):
    plugin = marked / "studies" / "own" / "my_net.py"
    said = sat_optuna("check", "own", cwd=marked).stderr
    assert said == f"running the study's plugins: {plugin}\n"
    path = marked / "studies" / "own" / "tickets" / "ours.json"
    path.write_text(path.read_text().replace('"resnet20"', '"mine"'))
    done = sat_optuna("show", str(path), cwd=marked, code=1)
    assert f"running {plugin}, for the ticket is of a network that this study's" in done.stderr
    assert (marked / "ran").exists()


@pytest.mark.parametrize("way", ["../../outside.py", "absolute", "link"])
def test_a_plugin_from_outside_of_the_studys_folder_is_refused(marked, monkeypatch, way):
    folder, outside = marked / "studies" / "own", marked / "outside.py"
    outside.write_text(f"open({str(marked / 'ran')!r}, 'w').close()\n")
    if way == "link":
        (folder / "link.py").symlink_to(outside)
    name = {"absolute": str(outside), "link": "link.py"}.get(way, way)
    (folder / "study.toml").write_text(TOML.replace("my_net.py", name))
    monkeypatch.chdir(marked)
    for arguments in (("check", "own"), ("run", "own"), ("pretrain", "own")):
        done = CliRunner().invoke(group, arguments)
        assert done.exit_code == 1
        assert "lies outside of its study's folder" in done.stderr
    assert not (marked / "ran").exists()


@pytest.mark.slow
def test_other_code_than_the_study_was_begun_with_is_refused(project):
    sat_optuna("pretrain", "own", cwd=project)
    plugin = project / "studies" / "own" / "my_net.py"
    plugin.write_text(plugin.read_text() + "\n# changed\n")
    done = sat_optuna("search", "own", "--no-mlflow", cwd=project, code=1)
    assert "was made with another configuration: plugins.sha256: [" in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("return torch.relu(features + shortcut)", "return features + shortcut", "merge"),
        ("return block.norm(block.conv(x)), x", "return x, block.norm(block.conv(x))", "branch"),
        ("return [net.blocks]", "return [net.blocks[:2]]", "stages"),
        ("return features * self.scale", "return features.mean(1, keepdim=True)", "scale"),
    ],
)
def test_check_proves_what_a_plugin_says_of_its_network(project, right, wrong, said):
    plugin = project / "studies" / "own" / "my_net.py"
    assert plugin.read_text().count(right) == 1
    plugin.write_text(plugin.read_text().replace(right, wrong))
    done = sat_optuna("check", "own", cwd=project, code=1)
    assert said in done.stderr
    running, _ = done.stderr.splitlines()
    assert running == f"running the study's plugins: {plugin}"


def test_what_attention_costs_in_a_plugins_network(project):
    asked = (
        *("bench", "inference", "--plugin", "studies/own/my_net.py", "--backbone", "mine"),
        *("--modules", "scale", "--scheme", "101", "--resolution", "16", "--batch", "1"),
        *("--rounds", "6", "--no-cheapest", "--json"),
    )
    document = json.loads(sat_optuna(*asked, cwd=project).stdout)
    assert [(row["network"], row["scheme"]) for row in document["rows"]] == [
        ("plain", "000"),
        ("full", "111"),
        ("share-full", "111"),
        ("given", "101"),
    ]
