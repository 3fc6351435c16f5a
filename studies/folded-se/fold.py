"""Fold the SE-ResNet-20 networks of train.py: python fold.py [--seeds K ...], then --report.

Each network's 512 schemes are scored with constants in place of the modules that they drop, on
the validation images; nothing is trained. The fewest modules are chosen by these scores, and what
they lose is told on the test images. A network's results go to work/, which git ignores; --report
measures latency and writes report.md and report.json of those that are there.
"""

import argparse
import json
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
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
from sat_optuna.evidence.figures import draw_front
from sat_optuna.evidence.folding import POINTS, costs_of, fold_report, front_of, times_of
from sat_optuna.evidence.pages import markdown_table, write_page
from sat_optuna.evidence.statistics import paired_by_image, summarise
from sat_optuna.files import write_text
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.ticket import ACCURACY
from sat_optuna.training.precision import pick_device

HERE = Path(__file__).parent
BATCH, ROUNDS = 128, 31


def main() -> None:
    """Score the networks that are asked for, or write the report on those that were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", help="default: all there are")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--weights", type=Path, default=HERE / "weights")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--limit", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--root", default="", help="folder of the data; empty: the usual one")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.report:
        report(asked)
        return
    device = str(pick_device())
    data = sat.load_dataset(
        "fashion-mnist",
        seed=0,
        valid=0.1,
        limit=asked.limit or None,
        device=device,
        root=asked.root or None,
    )
    found = sorted(int(path.stem[5:]) for path in asked.weights.glob("seed-*.safetensors"))
    asked.work.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds or found:
        net = network(seed, asked.width)
        load(net, asked.weights / f"seed-{seed}.safetensors")
        score(seed, net.to(device), data, asked.work)


def network(seed: int, width: int) -> sat.Supernet:
    """Return the network that train.py trains, as it is before."""
    return sat.Supernet(
        "resnet20", attention=["se"], in_channels=1, classes=10, seed=seed, width=width
    )


def load(net: sat.Supernet, path: Path) -> None:
    """Load what train.py wrote: the weights of the network with SE inside all its blocks."""
    weights = {}
    for name, value in load_file(path).items():
        inside = re.fullmatch(r"stages\.(\d+)\.(\d+)\.attention\.(.+)", name)
        key = "attention.{}.slots.se.{}.{}".format(*inside.groups()) if inside else ""
        weights[key or f"backbone.{name}"] = value
    net.load_state_dict(weights)


def score(seed: int, net: sat.Supernet, data: sat.Split, work: Path) -> None:
    """Score all schemes of a network, choose, test; write seed-K.npz and seed-K.json."""
    objective = sat.FoldedObjective(net, data, calibration=512, seed=0, cache=0)
    scores = sat.enumerate_schemes(objective, journal=work / f"seed-{seed}.jsonl")
    table, *_ = scores.write(work / f"seed-{seed}", top=3)
    table.replace(work / f"seed-{seed}.npz")
    kept = fold_report(objective, scores, points=POINTS).kept
    curve = tested(objective, [sat.Scheme.parse(row.scheme) for row in scores.best_by_density()])
    apart = {
        str(dtype)[6:]: max(difference(objective, each.scheme, dtype) for each in kept)
        for dtype in (torch.float64, torch.float32)
    }
    document = {
        "valid_accuracy": float(scores.scores[-1]),
        "test_accuracy": curve[-1]["test_accuracy"],
        "valid_images": scores.n,
        "test_images": len(data.test),
        "kept": [asdict(k) | {"scheme": str(k.scheme), "gone": k.gone} for k in kept],
        "curve": curve,
        "apart": apart,
    }
    write_text(work / f"seed-{seed}.json", json.dumps(document, indent=1) + "\n")
    sys.stdout.write(f"seed {seed}: {[(k.points, k.gone) for k in kept]}; {scores.spread}\n")


def tested(objective: sat.FoldedObjective, schemes: Sequence[sat.Scheme]) -> list[dict[str, Any]]:
    """Return what schemes lose on the test images; the last is full."""
    images = scored_images(objective.data.test, device=objective.valid.device)
    evaluator = sat.Evaluator(
        objective.net,
        images,
        calibration=objective.evaluator.calibration,
        estimates=PrefixConstants,
    )
    masks = {r.scheme: r.mask() for unit in evaluator.results(schemes) for r in unit}
    rows = []
    for scheme in schemes:
        lost = paired_by_image(masks[schemes[-1]], masks[scheme])
        accuracy = 100 * float(np.mean(masks[scheme]))
        rows.append(
            {
                "modules": scheme.connections,
                "scheme": str(scheme),
                "test_accuracy": accuracy,
                "test_lost": asdict(lost),
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


def report(asked: argparse.Namespace) -> None:
    """Measure latency and write report.md and report.json of the networks that were scored."""
    paths = {int(path.stem[5:]): path for path in sorted(asked.work.glob("seed-*.json"))}
    networks = {seed: json.loads(path.read_text()) for seed, path in paths.items()}
    net, first = network(0, asked.width).eval(), next(iter(networks))
    latency = sat.fit_latency(net, (1, 28, 28), batch=BATCH, rounds=11)
    chosen = [sat.Scheme.parse(k["scheme"]) for each in networks.values() for k in each["kept"]]
    times = times_of(net, (1, 28, 28), chosen, batch=BATCH, rounds=ROUNDS)
    fronts = {}
    for seed in networks:
        table = asked.work / f"seed-{seed}.npz"
        scores = Enumeration.read(table, kinds=["se"], sparsity_weight=2.0)
        costs = costs_of(scores, latency)
        points = list(zip(scores.scores.tolist(), costs, strict=True))
        fronts[seed] = [
            {
                "scheme": str(sat.Scheme.of(scores.schemes[row], scores.stages)),
                "accuracy": points[row][0],
                "ms": points[row][1],
            }
            for row in front_of(scores, costs)
        ]
        if seed == first:
            draw_front(
                asked.out / "figures" / "folded.png",
                points,
                {row["scheme"]: (row["accuracy"], row["ms"]) for row in fronts[seed]},
                {"plain": points[0], "full": points[-1]},
                objectives=(ACCURACY.name, f"ms a batch of {BATCH}, one thread (model)"),
                measure=ACCURACY,
                ticket="",
            )
    document: dict[str, Any] = {
        "width": asked.width,
        "training": json.loads((asked.weights / "training.json").read_text()),
        "latency": asdict(latency),
        "times": {str(s): [t.value, t.low, t.high] for s, t in times.items()},
        "fronts": fronts,
        "networks": networks,
    }
    write_text(asked.out / "report.json", json.dumps(document, indent=1) + "\n")
    write_page(asked.out / "report.md", page(document))
    sys.stdout.write(f"{asked.out / 'report.md'} written\n")


def page(document: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    training, times, networks = (document[key] for key in ("training", "times", "networks"))
    first = next(iter(networks.values()))
    full = sat.Scheme.parse(first["curve"][-1]["scheme"])
    modules = full.connections
    choices: list[dict[Any, dict[str, Any]]] = [
        {seed: each["kept"][number] for seed, each in networks.items()}
        for number in range(len(POINTS))
    ]
    plain = times[str(sat.Scheme.uniform(full.stages, 0))]
    lines = [
        "# Which SE modules of a trained SE-ResNet-20 are dead weight?",
        "",
        f"{len(networks)} networks (seeds {', '.join(map(str, networks))}): ResNet-20 of "
        f"width {document['width']} with SE after each of its {modules} blocks, trained on "
        f"{training['training_images']:,} images of Fashion-MNIST for "
        f"{training['epochs']} epochs (`train.py`, on {training['device']}). They have "
        f"{summary([n['valid_accuracy'] for n in networks.values()])} % on the "
        f"{first['valid_images']:,} validation images and "
        f"{summary([n['test_accuracy'] for n in networks.values()])} % on the "
        f"{first['test_images']:,} test images (mean, 95 % interval over networks).",
        "",
        "A module that goes becomes a constant a channel: its mean gate over 512 training images, "
        "given the same choices before it, folded into the BatchNorm before it. Nothing was "
        f"trained again: all {2**modules} schemes of each network were scored (`fold.py`).",
        "",
        "## How many can go",
        "",
        "The rule: the fewest modules that lose no more than so many points of the full network's "
        "validation accuracy; of several the most accurate, then that of the lowest loss. Lost on "
        "the test images, which chose nothing: mean over networks with its 95 % interval "
        "(Student's t); the next table has each network's own, over the images.",
        "",
    ]
    heads, rows = ["points", f"gone of {modules}, each network", "mean", "lost on test"], []
    for points, kept in zip(POINTS, choices, strict=True):
        gone = [each["gone"] for each in kept.values()]
        lost = [each["test_lost"]["mean"] for each in kept.values()]
        each_gone = ", ".join(map(str, gone))
        rows.append([f"{points:g}", each_gone, summary(gone), summary(lost)])
    lines += [markdown_table(heads, rows), ""]
    heads, rows = ["points", "seed", "stays", "lost on validation", "lost on test"], []
    for points, kept in zip(POINTS, choices, strict=True):
        for seed, each in kept.items():
            time = times.get(each["scheme"])
            lost = [f"{each['lost']['mean']:z.2f}", interval(each["test_lost"])]
            told = f"{time[0]:.3f} ({time[1]:.3f} to {time[2]:.3f})" if time else "1"
            rows.append([f"{points:g}", str(seed), f"`{each['scheme']}`", *lost, told])
    lines += [
        markdown_table([*heads, "time, full = 1"], rows),
        "",
        f"Time: of a batch of {BATCH} on one thread of a CPU, {ROUNDS} passes in turn, shares of "
        "the same round, 95 % interval of the median. The network without any module takes "
        f"{plain[0]:.3f} ({plain[1]:.3f} to {plain[2]:.3f}) of the full network's time.",
        "",
        "## By number of modules",
        "",
        "The most accurate scheme of each number on the validation images, and what it loses on "
        "the test images: mean over networks with its 95 % interval.",
        "",
    ]
    curve = [
        [str(at[0]["modules"]), summary([row["test_lost"]["mean"] for row in at])]
        for at in zip(*(each["curve"] for each in networks.values()), strict=True)
    ]
    lines += [
        markdown_table(["modules that stay", "lost on test"], curve),
        "",
        "## Which stay",
        "",
        f"How many of the {len(networks)} networks keep the module of each block:",
        "",
    ]
    heads, rows = ["points", *sat.Scheme.parameter_names(full.stages)], []
    for points, kept in zip(POINTS, choices, strict=True):
        counts = np.sum([sat.Scheme.parse(k["scheme"]).choices for k in kept.values()], axis=0)
        rows.append([f"{points:g}", *map(str, counts)])
    lines.append(markdown_table(heads, rows))
    seed, front = next(iter(document["fronts"].items()))
    apart = {name: max(n["apart"][name] for n in networks.values()) for name in first["apart"]}
    lines += [
        "",
        "## The front of one network",
        "",
        f"Seed {seed}: the schemes that no other beats in both validation accuracy and time (an "
        "affine model of the measured times, in which no module saves time). Those of the others "
        "are in report.json.",
        "",
        "![front](figures/folded.png)",
        "",
        markdown_table(
            ["scheme", "modules", "validation accuracy %", "ms"],
            [
                [
                    f"`{row['scheme']}`",
                    str(sat.Scheme.parse(row["scheme"]).connections),
                    f"{row['accuracy']:.2f}",
                    f"{row['ms']:.1f}",
                ]
                for row in front
            ],
        ),
        "",
        "## Checked",
        "",
        "The folded network against the scored one, over all choices above and 500 test images: "
        f"the largest difference of a logit over the largest logit is {apart['float64']:.1e} in "
        f"float64 and {apart['float32']:.1e} in float32.",
        "",
        "Made by `train.py`, `fold.py` and `fold.py --report` in this folder.",
        "",
    ]
    return "\n".join(lines)


def interval(spread: dict[str, float]) -> str:
    """Return a mean with its interval."""
    return f"{spread['mean']:z.2f} ({spread['low']:z.2f} to {spread['high']:z.2f})"


def summary(values: Sequence[float]) -> str:
    """Return a mean with the 95 % interval over networks."""
    spread = summarise(values)
    return interval(asdict(spread)) if spread.n > 1 and spread.sd else f"{spread.mean:z.2f}"


if __name__ == "__main__":
    main()
