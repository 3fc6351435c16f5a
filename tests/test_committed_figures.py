"""Figures that README prints of the benchmarks are those of the committed files.

Not those of the studies: who runs a study here writes its report anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

import sat_optuna as sat
from sat_optuna.evidence.contributions import interactions, main_effects
from sat_optuna.evidence.ranking import seed_to_seed, tau_of_scores
from sat_optuna.evidence.shares import TrueMeans
from sat_optuna.evidence.statistics import holm, summarise
from sat_optuna.evidence.supernet_scores import SupernetScores
from sat_optuna.training.step import STRATEGIES, SUPERNETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {
    "full": "a module a block",
    "share-full": "a module a stage",
    "ticket": "published ticket",
    "cheapest": "cheapest of as many blocks",
}


@pytest.fixture(scope="module")
def inference():
    path = ROOT / "studies" / "bench-inference" / "resnet50.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_row_of_the_inference_table(inference):
    plain, *rows = inference["rows"]
    assert f"| plain | `{plain['scheme']}` | {plain['ms']:.0f} | | |" in README
    for row in rows:
        low, high = (row[f"increment_percent_{end}"] for end in ("low", "high"))
        line = (
            f"| {row['module'].upper()}, {NAMES[row['network']]} | `{row['scheme']}` | "
            f"{row['ms']:.0f} | {row['increment_percent']:.1f} ({low:.1f} to {high:.1f}) | "
            f"{row['share_of_full']:.2f} |"
        )
        assert line in README


def test_what_the_text_below_it_says(inference):
    tests = {(t["faster"], t["than"]): t for t in inference["tests"]}
    share = tests["sge ticket 100-1011-010011-011", "sge share-full 111-1111-111111-111"]
    cheap = tests["sge cheapest 000-1000-111111-110", "sge ticket 100-1011-010011-011"]
    assert f"takes {1 + share['difference_percent'] / 100:.2f} of share-full's time" in README
    assert f"(p {share['p_holm']:.0e})".replace("e-0", "e-") in README
    assert f"take {-cheap['difference_percent']:.0f} % less" in README
    assert f"(p {cheap['p_holm']:.1g})" in README


def test_every_exported_file_compared_well_enough():
    path = ROOT / "studies" / "bench-export" / "resnet50.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    limits = {"safetensors": 0.0, "torch-export": 0.0, "onnx": 1e-5}
    rows = document["rows"]
    assert len(rows) == 11 * 3 * 3
    assert {row["batch"] for row in rows} == {1, 2, 5}
    assert all(row["difference"] <= limits[row["format"]] for row in rows)
    worst = max(row["difference"] for row in rows if row["format"] == "onnx")
    assert f"at most {worst:.1e} of the largest".replace("e-0", "e-") in README


def test_what_is_said_of_the_samplers():
    text = (ROOT / "studies" / "bench-sampler" / "table.md").read_text(encoding="utf-8")
    better, lower = [], []
    for section in text.split("\n## ")[1:]:
        rows = {}
        for line in section.splitlines():
            if line.startswith("| "):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                if cells[0] in rows and cells[0] == "rival":
                    break  # what follows is of variants
                rows[cells[0]] = cells
        value, difference, holm = (  # the first: later ones are of the recommended scheme
            rows["rival"].index(name) for name in ("value", "default - rival", "p Holm")
        )
        tpe = rows["tpe"]
        assert not (tpe[difference].startswith("-") and "**" in tpe[holm])
        better.append("**" in tpe[holm])
        mean = {
            rival: float(row[value].split()[0])
            for rival, row in rows.items()
            if rival in ("paper", "tpe")
        }
        lower.append(mean["paper"] < mean["tpe"])
    assert f"than Optuna's TPE on {sum(better)} of the {len(better)}" in README
    assert len(better) == 12
    assert all(lower)


def test_what_is_said_of_speed():
    speed, flat = ROOT / "studies" / "bench-speed", " ".join(README.split())
    scored = json.loads((speed / "evaluation-m9.json").read_text(encoding="utf-8"))["rows"]
    alone, calibrated = scored
    assert (alone["schemes"], alone["images"]) == (512, 1000)
    assert f"took {alone['tree_s']:.0f} s, {alone['faster']:.0f} times less than one" in flat
    said = f"({calibrated['tree_s']:.0f} s and {calibrated['faster']:.0f} times with BatchNorm"
    assert said in flat
    trained = json.loads((speed / "training.json").read_text(encoding="utf-8"))
    ours = [row for row in trained["rows"] if row["loop"] == "ours" and row["auto"]]
    plain, full = (row["times_usual"] for row in ours[:2])
    low, high = ours[0]["times_usual_low"], ours[0]["times_usual_high"]
    assert f"trains {plain:.2f} times ({low:.2f} to {high:.2f}; one thread)" in flat
    assert f"every block {full:.2f} times" in flat
    both = json.loads((speed / "training-2-threads.json").read_text(encoding="utf-8"))
    row = next(row for row in both["rows"] if row["loop"] == "ours" and row["auto"])
    low, high = row["times_usual_low"], row["times_usual_high"]
    assert f"on two threads {row['times_usual']:.2f} times ({low:.2f} to {high:.2f})" in flat
    plain, *attended = (f"{row['ratio']:.2f}" for row in both["compiled"])
    assert (
        f"SE then take {' and '.join(attended)} of the time and those of a plain network {plain};"
        in flat
    )
    masked = trained["ratios"][0]
    assert masked["what"].startswith("masked forward")
    bounds = f"{masked['ratio_low']:.2f} to {masked['ratio_high']:.2f}"
    assert f"takes {masked['ratio']:.2f} times ({bounds}) a hand-written" in flat


CARDS = ("H100", "H200")


@pytest.fixture(scope="module")
def cards():
    """The results of each card by the names of the measurements."""
    folder = ROOT / "studies" / "bench-gpu"
    names = ("nvidia-h100-80gb-hbm3.json", "nvidia-h200.json")
    documents = [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]
    return {card: one["results"] for card, one in zip(CARDS, documents, strict=True)}


def median(text):
    return text.split()[0]


def test_what_is_said_of_graphs_on_a_gpu(cards):
    flat, graph = " ".join(README.split()), {}
    for card in CARDS:
        for row in cards[card]["training, eager and graph"]:
            if (row["strategy"], row["precision"]) == ("graph", "float32"):
                width = row["network"].split("width ")[1].split(",")[0]
                graph[card, width] = median(row["times_eager"])
    assert (
        f"of width 16 {graph['H200', '16']} times as fast on an H200 as eagerly, "
        f"{graph['H100', '16']} on an H100; of width 32 {graph['H200', '32']} and "
        f"{graph['H100', '32']} times)"
    ) in flat
    blocks = {
        memory: sorted(
            float(median(row["times_eager"]))
            for row in cards["H200"]["supernet, eager and by blocks"]
            if (row["strategy"], row["precision"]) == ("blocks", "float32")
            and row["memory_format"] == memory
        )
        for memory in ("contiguous", "channels_last")
    }
    one, last = (f"{each[0]:.2f} to {each[-1]:.2f}" for each in blocks.values())
    assert [len(each) for each in blocks.values()] == [4, 4]
    assert f"({one} times, with channels_last {last}, [bench-gpu]" in flat
    assert f"of up to {STRATEGIES['cuda']:,} parameters (ResNet-20" in flat
    assert f"and supernets of up to {SUPERNETS['cuda']:,} (" in flat


def test_what_is_said_of_precision_on_a_gpu(cards):
    flat, layout, less = " ".join(README.split()), [], []
    for name in ("training, resnet20", "training, resnet56"):
        ours = {
            (row["precision"], row["memory_format"]): row["images_per_s"]
            for row in cards["H200"][name]
            if (row["loop"], row["strategy"]) == ("ours", "graph")
        }
        last = ours["float32", "channels_last"]
        layout.append(last / ours["float32", "contiguous"])
        less.append(ours["bfloat16", "channels_last"] / last)
    assert f"({layout[0]:.2f} and {layout[1]:.2f} times as fast by graph" in flat
    assert f"another {less[0]:.2f} to {less[1]:.2f} times by graph, and nothing eagerly" in flat
    eagerly = (("H200", "wide resnet56"), ("H100", "resnet56"), ("H100", "wide resnet20"))
    for card, name in eagerly:
        rows = [row for row in cards[card][f"training, {name}"] if row["loop"] == "ours"]
        speed = {(row["precision"], row["memory_format"]): row["images_per_s"] for row in rows}
        assert {row.get("strategy", "eager") for row in rows} == {"eager"}  # not stored at first
        assert speed["bfloat16", "channels_last"] < speed["float32", "channels_last"]


def test_what_is_said_of_retraining_together_on_a_gpu(cards):
    flat, eagerly, graph = " ".join(README.split()), [], set()
    for card in CARDS:
        ways = {row["strategy"]: row for row in cards[card]["retraining together"]}
        five, alone = ways["graph, 5 together"], ways["graph, one after the other"]
        eagerly.append(median(five["times_eager"]))
        graph.add(f"{five['images_per_s'] / alone['images_per_s']:.1f}")
    said = f"{' and '.join(eagerly)} times as fast as one after the other eagerly"
    assert f"{said}, {graph.pop()} times as fast as so by graph" in flat
    assert not graph


def test_every_interval_that_is_said_of_the_gpus_was_measured(cards):
    """Medians with their intervals; the goals' figures are all of this kind."""
    said = (ROOT / "studies" / "bench-gpu" / "README.md").read_text(encoding="utf-8")
    intervals = re.findall(r"[\d.]+ \([\d.]+ to [\d.]+\)", " ".join(said.split()))
    found = json.dumps(cards)
    assert len(intervals) > 40
    assert [one for one in intervals if f'"{one}"' not in found] == []


def test_what_is_said_of_the_truth_table():
    table = sat.load_truth(ROOT / "studies" / "truth-cued-digits-srm")
    whole, flat = table.signed(), " ".join(README.split())
    of: dict[str, Any] = {"stages": table.stages, "kinds": table.kinds}
    effects = main_effects(whole.choices, whole.values, **of)
    corrected = holm([one.p for one in effects])
    told = [one for one, p in zip(effects, corrected, strict=True) if p < 0.05]
    assert [one.block for one in told] == ["s1.b00", "s1.b01", "s2.b00"]

    def ends(one, sign=1):
        low, high = sorted((sign * one.low, sign * one.high))
        return f"({low:.2f} to {high:.2f})"

    first, second, third = told
    (pair,) = [
        one
        for one in interactions(whole.choices, whole.values, **of)
        if one.blocks == ("s1.b00", "s1.b01")
    ]
    worth = f"worth {first.points:.2f} points of validation accuracy {ends(first)}"
    assert f"{worth} in the mean over all other choices, at s1.b01 {second.points:.2f}" in flat
    assert f"{ends(second)}: {-pair.points:.2f} less {ends(pair, -1)} where s1.b00 has" in flat
    assert f"At s2.b00 it costs {-third.points:.2f} {ends(third, -1)}." in flat
    plain, full, constant = (summarise([*runs.values()]) for runs in whole.references.values())
    assert f"Plain has {plain.mean:.2f} % ({plain.low:.2f} to {plain.high:.2f}; 16 seeds)" in flat
    assert f"full {full.mean:.2f} ({full.low:.2f} to {full.high:.2f})" in flat
    assert f"everywhere {constant.mean:.2f} ({constant.low:.2f} to {constant.high:.2f})" in flat
    tau = seed_to_seed(whole.values)
    assert f"Kendall's tau {tau.tau:.2f} ({tau.low:.2f} to {tau.high:.2f})" in flat
    halves = [whole.choices[:, 0] == choice for choice in (1, 0)]
    within = [kendalltau(*whole.values[half].T).statistic for half in halves]
    assert f"no better than chance ({within[0]:.2f} and {within[1]:.2f})" in flat
    held = SupernetScores.load(ROOT / "studies" / "truth-cued-digits-srm")
    assert held
    scores = held.by_recipe
    tau, fixed = (
        tau_of_scores(scores[f"iid, 40 epochs{more}"], whole.values)
        for more in ("", ", not recalibrated")
    )
    assert f"with tau {tau.tau:.2f} ({tau.low:.2f} to {tau.high:.2f}; 5 supernets" in flat
    assert f"rank nothing: {fixed.tau:.2f} ({fixed.low:.2f} to {fixed.high:.2f})" in flat
    others, paired = whole.paired("full")
    assert not TrueMeans(whole.values).above(others, paired=paired).identifiable
    alone = table.valid[table.row("100-000-00")]
    assert f"the first alone has {np.nanmean(alone):.1f} % (two seeds)" in flat
    counts = np.bincount(table.machine[table.machine >= 0], minlength=2)
    machines = [one["device"] for one in table.manifest["machines"]]
    assert f"{counts[machines.index('NVIDIA H200')]} of its {counts.sum()} trainings" in flat


def test_what_is_said_of_the_length_of_trainings():
    path = ROOT / "studies" / "bench-length" / "lengths.json"
    rows, flat = json.loads(path.read_text(encoding="utf-8")), " ".join(README.split())
    test = {
        (scheme, epochs): [
            row["test"] for row in rows if (row["scheme"], row["epochs"]) == (scheme, epochs)
        ]
        for scheme in ("000-000-00", "111-111-11")
        for epochs in (5, 20, 40)
    }
    first, second, third = test["111-111-11", 5]
    assert f"after 5 epochs full has {first:.1f}, {second:.1f} and {third:.1f} %" in flat
    assert f"after 20 {min(test['111-111-11', 20]):.1f} at least" in flat
    assert f"plain has {max(test['000-000-00', 40]):.1f} at most after 40" in flat


def test_what_is_said_of_the_folded_networks():
    path = ROOT / "studies" / "folded-se" / "report.json"
    networks = [*json.loads(path.read_text(encoding="utf-8"))["networks"].values()]
    kept = [next(one for one in net["kept"] if one["points"] == 0.1) for net in networks]
    assert [one["gone"] for one in kept] == [9, 9, 9]
    lost = summarise([one["test_lost"]["mean"] for one in kept])
    said = f"nine modules for {lost.mean:.2f} points on the test images ({lost.low:.2f} to"
    assert f"{said} {lost.high:.2f})" in " ".join(README.split())
