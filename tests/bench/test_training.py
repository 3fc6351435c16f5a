"""The training benchmark compares the same work, and says what it measured."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner

from sat_optuna.bench.document import BenchError
from sat_optuna.bench.handwritten import hand_written
from sat_optuna.bench.training import bench_training
from sat_optuna.bench.training_plan import LIMITS, NETWORKS, Network, TrainingPlan
from sat_optuna.bench.training_ratios import compiled_ratio
from sat_optuna.bench.training_report import accuracy_line, readable, training_markdown
from sat_optuna.bench.usual import augmented_loader, bare_loader, usual_fit
from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.timing import TimingError
from sat_optuna.data.images import TensorImages
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.loop import fit
from tests.networks import images

if TYPE_CHECKING:
    from sat_optuna.events import Event

TINY = Network(width=8, stem_stride=2, attention=True, shape=(1, 8, 8), batch=4, steps=2)
PLAIN = TrainConfig(batch=8, shift=0, flip=False, precision="float32")


def test_the_hand_written_network_is_the_masked_one():
    net = TINY.supernet()
    scheme = Scheme.parse("101-010-001")
    written = hand_written(net, scheme)
    x = images(3, shape=TINY.shape)
    torch.testing.assert_close(written.eval()(x), net.eval()(x, scheme), rtol=0, atol=0)
    wanted = sum(p.numel() for p in materialise(net, scheme).parameters())
    assert sum(p.numel() for p in written.parameters()) == wanted
    names = {type(module).__name__ for module in written.modules()}
    assert names.isdisjoint({"Supernet", "StageAttention", "SE", "BasicBlock"})


def test_both_loops_train_alike_on_one_batch():
    """One batch an epoch and no augmentation: no order, no draw, nothing that may differ."""
    data = TINY.images(8)
    net = TINY.supernet()
    ours, usual = (materialise(net, Scheme.uniform(net.stages, 0)) for _ in range(2))
    history = fit(ours, data, epochs=4, seed=0, config=PLAIN)
    losses = usual_fit(usual, bare_loader(data, PLAIN), epochs=4, config=PLAIN)
    assert losses == pytest.approx([record.loss for record in history], rel=1e-4)


def test_the_usual_loader_augments_as_ours_does():
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    pixels[0, 0, 4, 3] = 255
    data = TensorImages(pixels, torch.tensor([0, 1]), (0.5,), (0.5,))
    config = TrainConfig(batch=2, shift=1, flip=True)
    with seeded("usual"):
        loader = augmented_loader(data, config)
        seen = torch.cat([x[labels == 0] for _ in range(200) for x, labels in loader])
    # Mirrored, column 3 is column 4; moved by up to one pixel, that is columns 2 to 5.
    pixels_seen = {tuple(pixel) for pixel in (seen == 1).nonzero()[:, 2:].tolist()}
    assert pixels_seen == {(row, column) for row in (3, 4, 5) for column in (2, 3, 4, 5)}
    assert set(seen.unique().tolist()) == {-1.0, 1.0}  # normalised
    (x, labels), *others = bare_loader(data, config)
    assert not others
    assert (x[labels == 0] == 1).nonzero()[:, 2:].tolist() == [[4, 3]]


def test_a_plan_without_interval_is_refused():
    with pytest.raises(TimingError, match="5 rounds given; give at least 6"):
        TrainingPlan(rounds=5)


def test_the_networks_measured_are_those_of_the_studies():
    assert [network.name for network in NETWORKS] == [
        "resnet20, width 16, 3x32x32, batch 128",
        "resnet20 with SE, width 16, 3x32x32, batch 64",
        "resnet20 with SE, width 8, stem stride 2, 1x28x28, batch 64",
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A plan, its document, the events that were told, and the file written."""
    turns: list[Event] = []
    out = tmp_path_factory.mktemp("bench") / "mine.json"
    plan = TrainingPlan(
        networks=(TINY, replace(TINY, attention=False)), rounds=6, seeds=2, epochs=0
    )
    document = bench_training(plan, out=out, on_event=turns.append)
    return plan, document, turns, out


ACCURACY = {
    "data": "mnist5k",
    "network": "resnet20",
    "epochs": 1,
    "ours": [97.0, 98.0],
    "usual": [96.0, 98.0],
    "precision": "bfloat16",
    "memory_format": "channels_last",
    "difference": {"mean": 0.5, "low": -5.85, "high": 6.85, "sd": 0.7, "n": 2},
}


def test_a_row_for_each_loop_and_setting(measured):
    plan, document, turns, _ = measured
    assert [event.done for event in turns] == list(range(1, plan.turns + 1))
    assert plan.turns == (2 + 3) * 6 + 2 * 2
    rows = document["rows"]
    assert len(rows) == 2 * 6
    for network in plan.networks:
        mine = [row for row in rows if row["network"] == network.name]
        assert [row["loop"] for row in mine] == ["ours"] * 4 + ["usual", "usual, no augmentation"]
        for index, base in ((0, "times_float32"), (4, "times_usual"), (5, "times_bare")):
            assert mine[index][base] == 1
        assert sum(row["auto"] for row in mine) == 1
        for row in mine:
            assert row["images_per_s"] > 0
            assert row["times_usual_low"] <= row["times_usual"] <= row["times_usual_high"]


def test_a_ratio_says_whether_its_upper_end_keeps_the_limit(measured):
    plan, document, *_ = measured
    rows = document["ratios"]
    assert [row["what"] for row in rows] == list(LIMITS)
    for row in rows:
        assert row["pairs"] == plan.rounds
        assert row["kept"] == (row["ratio_high"] < LIMITS[row["what"]])
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_the_page_holds_every_row(measured):
    _, document, *_ = measured
    page = training_markdown(document | {"accuracy": ACCURACY})
    assert f"{document['threads']} threads, 6 rounds" in page
    assert sum(line.startswith("| resnet20") for line in page.splitlines()) == 2 * 6
    assert page.count("float32 *") == 2
    for row in readable(document["ratios"]):
        assert f"| {row['what']} | {row['network']} | 6 | {row['ratio']} | " in page
    assert page.endswith("paired by seed).\n")
    assert "ours (bfloat16, channels_last) 97.50 %, usual 97.00 %; difference +0.50 points, 95 % "
    assert "interval -5.85 to +6.85" in accuracy_line(ACCURACY)
    json.dumps(document, allow_nan=False)


COMPILED_ROW = {
    "network": "resnet20, width 16",
    "precision": "float32",
    "memory_format": "contiguous",
    "compile_s": 47.1,
    "pairs": 6,
    "ratio": 0.9,
    "ratio_low": 0.85,
    "ratio_high": 0.95,
}


def test_a_page_of_what_torch_compile_gains(measured, tmp_path):
    """Asked for of a file that lacks it alone, it is measured alone."""
    plan, document, *_ = measured
    asked = replace(plan, compile=True)
    assert asked.turns == plan.turns + 2 * 6
    rows = [COMPILED_ROW | {"network": network.name} for network in plan.networks]
    held = tmp_path / "held.json"
    held.write_text(json.dumps(document | {"compiled": rows}))
    whole = bench_training(asked, out=held, on_event=lambda _: pytest.fail("measured"))
    assert whole == document | {"compiled": rows}
    page = training_markdown(whole)
    for network in plan.networks:
        line = f"{network.name} | float32 | contiguous | 47.1 | 6 | 0.900 (0.850 to 0.950) |"
        assert f"| {line}\n" in page
    assert "torch.compile" not in training_markdown(document)


@pytest.mark.slow
def test_a_compiled_step_is_timed_beside_a_plain_one(measured):
    plan, *_ = measured
    turns: list[Event] = []
    row = compiled_ratio(TINY, plan, turns.append)
    assert row.keys() == COMPILED_ROW.keys()
    assert len(turns) == row["pairs"] == 6
    assert row["compile_s"] > 1
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_what_a_file_holds_is_not_measured_again(measured, tmp_path):
    plan, document, _, out = measured
    assert json.loads(out.read_text()) == document
    assert bench_training(plan, out=out, on_event=lambda _: pytest.fail("measured")) == document
    cut = document | {"ratios": document["ratios"][:2]}
    partly = tmp_path / "partly.json"
    partly.write_text(json.dumps(cut))
    turns: list[Event] = []
    again = bench_training(plan, out=partly, on_event=turns.append)
    assert len(turns) == plan.rounds
    assert again["ratios"][:2] == document["ratios"][:2]
    assert json.loads(partly.read_text()) == again


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("accuracy,loss", "holds something else than training speeds; choose another --out"),
        ("[]", "holds something else than training speeds; choose another --out"),
        ('{"rows": [], "ratios": [], "accuracy": {}}', "was begun with another capability, "),
    ],
)
def test_another_file_is_refused(tmp_path, content, words):
    out = tmp_path / "mine.json"
    out.write_text(content)
    with pytest.raises(BenchError) as caught:
        bench_training(TrainingPlan(), out=out)
    assert words in str(caught.value)
    assert out.read_text() == content


def bench(*arguments, code=0):
    done = CliRunner().invoke(
        group, ["bench", "training", *arguments], auto_envvar_prefix="SAT_OPTUNA"
    )
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_both_files(tmp_path):
    out = tmp_path / "folder" / "mine.json"
    short = ("--rounds", "6", "--batch", "2", "--seeds", "2", "--epochs", "1", "--threads", "1")
    done = bench(*short, "--out", str(out))
    head, *lines = done.stdout.splitlines()
    assert " ".join(head.split()).startswith("network loop precision memory_format images_per_s")
    assert sum("usual" in line and "accuracy" not in line for line in lines) == 2 * len(NETWORKS)
    assert "accuracy on mnist5k" in lines[-1]
    assert f"{out} and {out.with_suffix('.md')} written" in done.stderr
    document = json.loads(out.read_text())
    assert document["threads"] == 1
    assert len(document["accuracy"]["ours"]) == len(document["accuracy"]["usual"]) == 2
    assert min(document["accuracy"]["ours"] + document["accuracy"]["usual"]) > 50
    assert out.with_suffix(".md").read_text() == training_markdown(document)


def test_numbers_out_of_range_are_usage_errors():
    least = {"--rounds": 5, "--threads": 0, "--batch": 1, "--seeds": 1, "--epochs": 0}
    for option, value in least.items():
        assert "not in the range" in bench(option, str(value), code=2).stderr


def test_a_path_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    done = bench("--out", str(tmp_path / "file" / "mine.json"), code=1)
    assert len(done.stderr.strip().splitlines()) == 1
