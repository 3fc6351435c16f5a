"""Fold the SE-ResNet-20 networks of train.py: python fold.py [--seeds K ...], then --report.

Each network's 512 schemes are scored with constants in place of the modules that they drop, on
the validation images; nothing is trained. The scores go to work/, which git ignores, so a call
that was ended goes on. --report chooses, reads the test images, writes report.md and report.json.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import sat_optuna as sat
from sat_optuna.data.loaders import scored_images
from sat_optuna.evaluate.constants import PrefixConstants
from sat_optuna.evaluate.parts import Parts
from sat_optuna.evaluate.tree import walk
from sat_optuna.evidence.enumeration import Enumeration
from sat_optuna.evidence.folding import POINTS, Folding, fold_report, times_of
from sat_optuna.evidence.statistics import paired_by_image, summarise
from sat_optuna.files import write_text
from sat_optuna.supernet.batchnorm import evaluating

HERE = Path(__file__).parent
BATCH, ROUNDS = 128, 61


def main() -> None:
    """Score the networks that are asked for, or write the report on all there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", help="default: all there are")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--weights", type=Path, default=HERE / "weights")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--limit", type=int, default=0, help="training images; 0: all")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = sat.load_dataset("fashion-mnist", seed=0, valid=0.1, limit=asked.limit)
    found = sorted(int(path.stem[5:]) for path in asked.weights.glob("seed-*.safetensors"))
    objectives, scores = {}, {}
    for seed in asked.seeds or found:
        net = sat.Supernet(
            "resnet20",
            attention=["se"],
            in_channels=1,
            classes=data.classes,
            seed=seed,
            width=asked.width,
        )
        net.load_state_dict(load_file(asked.weights / f"seed-{seed}.safetensors"))
        objectives[seed] = sat.FoldedObjective(net, data, calibration=512, seed=0, cache=0)
        journal = asked.out / "work" / f"seed-{seed}.jsonl"
        scores[seed] = sat.enumerate_schemes(objectives[seed], journal=journal)
        sys.stdout.write(f"seed {seed}: {scores[seed].spread}\n")
    if asked.report:
        report(asked.out, asked.weights, objectives, scores)


def report(
    out: Path,
    weights: Path,
    objectives: dict[int, sat.FoldedObjective],
    scores: dict[int, Enumeration],
) -> None:
    """Choose on the validation images, test, measure, and write it."""
    first = next(iter(objectives.values()))
    net, shape = first.net, first.data.shape
    latency = sat.fit_latency(net, shape, batch=BATCH, rounds=21)
    foldings = {s: fold_report(o, scores[s], latency=latency) for s, o in objectives.items()}
    chosen = [kept.scheme for folding in foldings.values() for kept in folding.kept]
    times = times_of(net, shape, chosen, batch=BATCH, rounds=ROUNDS)
    curves = {seed: curve(objectives[seed], scores[seed]) for seed in objectives}
    apart = {
        str(dtype)[6:]: max(
            difference(objectives[seed], kept.scheme, dtype)
            for seed, folding in foldings.items()
            for kept in folding.kept
        )
        for dtype in (torch.float64, torch.float32)
    }
    document: dict[str, Any] = {
        "training": json.loads((weights / "training.json").read_text()),
        "apart": apart,
        "times": {str(s): [t.value, t.low, t.high] for s, t in times.items()},
        "networks": {seed: folding.document() for seed, folding in foldings.items()},
        "curves": curves,
    }
    write_text(out / "report.json", json.dumps(document, indent=1) + "\n")
    foldings[next(iter(foldings))].write(out, times=times)
    write_text(out / "report.md", page(document, foldings))
    sys.stdout.write(f"{out / 'report.md'} written\n")


def curve(objective: sat.FoldedObjective, scores: Enumeration) -> list[dict[str, Any]]:
    """Return what the best scheme of each number of modules, by validation, loses on the test."""
    schemes = [sat.Scheme.parse(row.scheme) for row in scores.best_by_density()]
    images = scored_images(objective.data.test, device=objective.valid.device)
    evaluator = sat.Evaluator(
        objective.net,
        images,
        calibration=objective.evaluator.calibration,
        estimates=PrefixConstants,
    )
    masks = {r.scheme: r.mask() for unit in evaluator.results(schemes) for r in unit}
    full = masks[schemes[-1]]
    rows = []
    for scheme in schemes:
        lost = paired_by_image(full, masks[scheme])
        rows.append(
            {
                "modules": scheme.connections,
                "scheme": str(scheme),
                "test_accuracy": 100 * float(np.mean(masks[scheme])),
                "test_lost": lost.mean,
                "low": lost.low,
                "high": lost.high,
            }
        )
    return rows


def difference(objective: sat.FoldedObjective, scheme: sat.Scheme, dtype: torch.dtype) -> float:
    """Return how far the folded network's logits are from the scored ones, over the largest."""
    net, calibration = objective.net, objective.evaluator.calibration
    x = next(objective.data.test.batches(None, 500))[0].to(dtype)
    try:
        net.to(dtype)
        objective.evaluator.calibration = tuple(chunk.to(dtype) for chunk in calibration)
        folded = objective.folded(scheme).eval()
        parts = Parts(net)
        constants = PrefixConstants.of(parts, x[:2], objective.evaluator.calibration)
        asked: Sequence[tuple[int, ...]] = [scheme.choices]
        nothing: dict[str, Any] = {"known": {}, "wanted": (), "keep": {}}
        with evaluating(net), torch.inference_mode(), constants.prepared(asked):
            constants.train(mode=True)
            for chunk in objective.evaluator.calibration:
                deque(walk(parts, constants, asked, chunk, **nothing), maxlen=0)
            constants.train(mode=False)
            ((_, scored),) = walk(parts, constants, asked, x, **nothing)
            return float((folded(x) - scored).abs().max() / scored.abs().max())
    finally:
        net.to(torch.float32)
        objective.evaluator.calibration = calibration


def page(document: dict[str, Any], foldings: dict[int, Folding]) -> str:
    """Return the report as Markdown."""
    training, times = document["training"], document["times"]
    first = next(iter(foldings.values()))
    modules = len(first.kept[0].scheme.choices)
    full = [100 * f.scores.hits[-1] / f.scores.n for f in foldings.values()]
    tested = [rows[-1]["test_accuracy"] for rows in document["curves"].values()]
    lines = [
        "# Which SE modules of a trained SE-ResNet-20 are dead weight?",
        "",
        f"{len(foldings)} networks (seeds {', '.join(map(str, foldings))}), ResNet-20 with SE "
        f"after each of its {modules} blocks, trained on {training['training_images']:,} images of "
        f"Fashion-MNIST for {training['epochs']} epochs (`train.py`, on {training['device']}). "
        f"Full networks: {summary(full)} % on the {first.scores.n:,} validation images, "
        f"{summary(tested)} % on the {first.test_images:,} test images (mean, 95 % interval over "
        "networks).",
        "",
        "A module that goes becomes a constant a channel: its mean gate over 512 training images, "
        "given the same choices before it, folded into the BatchNorm before it. Nothing was "
        f"trained again; each network's {len(first.scores.schemes)} schemes were scored (`fold.py`).",
        "",
        "## How many can go",
        "",
        "The rule: the fewest modules that lose no more than so many points of the full network's "
        "validation accuracy; of several the most accurate, then that of the lowest loss. Lost on "
        "the test images, which chose nothing: mean over networks with its 95 % interval "
        "(Student's t); the interval over images of each network is in the next table.",
        "",
        f"| points | modules gone of {modules}, each network | mean | lost on test |",
        "|---|---|---|---|",
    ]
    for number, points in enumerate(POINTS):
        kept = [folding.kept[number] for folding in foldings.values()]
        gone = [each.gone for each in kept]
        lost = [each.test_lost.mean for each in kept if each.test_lost]
        lines.append(
            f"| {points:g} | {', '.join(map(str, gone))} | {summary(gone)} | {summary(lost)} |"
        )
    lines += [
        "",
        "| points | seed | stays | lost on validation | lost on test | time, full = 1 |",
        "|---|---|---|---|---|---|",
    ]
    for number, points in enumerate(POINTS):
        for seed, folding in foldings.items():
            each = folding.kept[number]
            time = times.get(str(each.scheme))
            lost = each.test_lost
            lines.append(
                f"| {points:g} | {seed} | `{each.scheme}` | {each.lost.mean:.2f} | "
                + (f"{lost.mean:.2f} ({lost.low:.2f} to {lost.high:.2f}) | " if lost else "| ")
                + (f"{time[0]:.3f} ({time[1]:.3f} to {time[2]:.3f}) |" if time else "1 |")
            )
    plain = times[str(sat.Scheme.uniform(first.scores.stages, 0))]
    lines += [
        "",
        f"Time: of a batch of {BATCH}, one thread, {ROUNDS} passes in turn, shares of the same "
        f"round, 95 % interval of the median. The network without any module takes {plain[0]:.3f} "
        f"({plain[1]:.3f} to {plain[2]:.3f}) of the full network's time.",
        "",
        "## By number of modules",
        "",
        "The most accurate scheme of each number on the validation images, and what it loses on "
        "the test images: mean over networks with its 95 % interval.",
        "",
        "| modules that stay | lost on test |",
        "|---|---|",
    ]
    rows = list(zip(*document["curves"].values(), strict=True))
    lines += [f"| {r[0]['modules']} | {summary([x['test_lost'] for x in r])} |" for r in rows]
    lines += [
        "",
        "## Which stay",
        "",
        "Of the networks, how many keep the module of each block:",
        "",
        f"| points | {' | '.join(sat.Scheme.parameter_names(first.scores.stages))} |",
        "|---|" + "---|" * modules,
    ]
    for number, points in enumerate(POINTS):
        choices = np.array([folding.kept[number].scheme.choices for folding in foldings.values()])
        lines.append(f"| {points:g} | {' | '.join(map(str, choices.sum(0)))} |")
    apart = document["apart"]
    lines += [
        "",
        "## The front of one network",
        "",
        f"[folded.md](folded.md) has the front of accuracy against latency of seed "
        f"{next(iter(foldings))}; report.json those of all.",
        "",
        "![front](figures/folded.png)",
        "",
        "## Checked",
        "",
        "The folded network against the scored one, over all choices above and 500 test images: "
        f"the largest difference of a logit over the largest logit is {apart['float64']:.1e} in "
        f"float64, {apart['float32']:.1e} in float32.",
        "",
        "Made by `train.py` and `fold.py --report` in this folder.",
        "",
    ]
    return "\n".join(lines)


def summary(values: Sequence[float]) -> str:
    """Return a mean with the 95 % interval over networks."""
    spread = summarise(values)
    if spread.n == 1 or spread.sd == 0:
        return f"{spread.mean:.2f}"
    return f"{spread.mean:.2f} ({spread.low:.2f} to {spread.high:.2f})"


if __name__ == "__main__":
    main()
