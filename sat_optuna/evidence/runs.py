"""What was measured of a study's networks, by scheme and seed: evidence/runs.json.

The file is committed with the study, and its claims are computed from it alone. It holds facts
about schemes, which stay true when another scheme becomes the ticket, and says which scheme plays
which role now.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sat_optuna.errors import StudyError
from sat_optuna.evidence.claims import Runs
from sat_optuna.files import write_text
from sat_optuna.ticket import Measure

__all__ = ["About", "MeasuredNetwork", "MeasuredRuns", "merged"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What all networks of the file have in common; those of another backbone or data are refused.

    Attributes:
        backbone, backbone_settings, attention, classes, input_shape, dataset,
            dataset_fingerprint: as of a Ticket, in JSON values.
        weights: SHA-256 of the trained weights that they started from; None from scratch.
        recipe: what decides a retraining, as of `decided`.
        epochs: of a retraining.
        measure: what they are measured in, in JSON values.
    """

    backbone: str
    backbone_settings: Mapping[str, Any]
    attention: list[Mapping[str, Any]]
    classes: int
    input_shape: list[int]
    dataset: str
    dataset_fingerprint: str
    weights: str | None
    recipe: Mapping[str, Any]
    epochs: int
    measure: Mapping[str, str]

    def unlike(self, other: "About") -> str:
        """Return what differs, in words; the empty text where nothing does.

        >>> about = About(
        ...     backbone="resnet20", backbone_settings={}, attention=[], classes=10,
        ...     input_shape=[1, 28, 28], dataset="mnist5k", dataset_fingerprint="ab", weights=None,
        ...     recipe={}, epochs=4, measure={"name": "accuracy"},
        ... )
        >>> about.unlike(replace(about, backbone="resnet56"))
        "backbone 'resnet20' and 'resnet56'"
        """
        one, two = asdict(self), asdict(other)
        for name in (n for n, value in one.items() if value != two[n]):
            if name == "recipe":
                keys = sorted(k for k in {*one[name], *two[name]} if _at(one, k) != _at(two, k))
                return "; ".join(f"{k} {_at(one, k)!r} and {_at(two, k)!r}" for k in keys)
            return f"{name.replace('_', ' ')} {one[name]!r} and {two[name]!r}"
        return ""


def _at(about: Mapping[str, Any], key: str) -> Any:
    return about["recipe"].get(key, "its default")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """What was measured of the network of one scheme.

    Attributes:
        test: by seed, the metric on the test part after the last epoch.
        train: by seed, the accuracy of the last epoch's training steps, per cent; where it is
            known.
        params, macs: as of a Ticket; None where they are not known.
        latency_ms: milliseconds of a batch, of each round of one interleaved timing; or their
            median alone; empty where none was measured.
    """

    test: Mapping[int, float] = field(default_factory=dict)
    train: Mapping[int, float] = field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    latency_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRuns:
    """All that was measured for the claims of a study.

    Attributes:
        about: what all networks have in common.
        roles: by role, the scheme's text; the ticket's is the first.
        networks: by the scheme's text, what was measured.
        images: number of test images; 0 where it is not known.
        train_images: number of images of a retraining; 0 where it is not known.
    """

    about: About
    roles: Mapping[str, str]
    networks: Mapping[str, MeasuredNetwork]
    images: int = 0
    train_images: int = 0

    def runs(self) -> Runs:
        """Return what the claims are computed from: by role, those networks that were trained."""
        known = {role: self.networks.get(scheme) for role, scheme in self.roles.items()}
        there = {role: network for role, network in known.items() if network and network.test}
        epochs = self.about.epochs
        budget = f"{epochs} epoch{'s' * (epochs > 1)}"
        if self.train_images:
            budget += f" of {self.train_images:,} images"
        return Runs(
            accuracy={role: network.test for role, network in there.items()},
            train_accuracy={role: network.train for role, network in there.items()},
            schemes={role: self.roles[role] for role in there},
            params={r: n.params for r, n in there.items() if n.params is not None},
            latency={r: n.latency_ms for r, n in there.items() if len(n.latency_ms) > 1},
            classes=self.about.classes,
            images=self.images,
            measure=Measure(**self.about.measure),
            budget=budget,
        )

    def save(self, path: Path) -> Path:
        """Write the file, with a digest of what is in it; untouched where it is the same."""
        document = {"schema": SCHEMA} | asdict(self)
        document["networks"] = {
            scheme: {k: v for k, v in network.items() if v not in ({}, (), None)}
            for scheme, network in document["networks"].items()
        }
        document["sha256"] = _digest(document)
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        return path if same else write_text(path, text)

    def with_network(self, scheme: str, network: MeasuredNetwork) -> "MeasuredRuns":
        """Return these with what was measured of a network, beside what is known of it."""
        known = merged(self.networks.get(scheme, MeasuredNetwork()), network)
        return replace(self, networks={**self.networks, scheme: known})

    @classmethod
    def load(cls, path: Path) -> "MeasuredRuns":
        """Read the file.

        Raises:
            StudyError: it is broken, was changed, or is of a later version.
        """
        remedy = "bring it back from git, or move it away and run the same command again"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            digest, schema = document.pop("sha256"), document.pop("schema")
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise StudyError(
                f"{path} is broken, no file that `evidence` wrote ({error!r}); {remedy}"
            ) from error
        if schema != SCHEMA:
            raise StudyError(
                f"{path} has schema {schema!r}, and this version reads schema {SCHEMA}; install "
                "the version of sat_optuna that wrote it"
            )
        if digest != _digest({"schema": schema} | document):
            raise StudyError(
                f"{path} was changed since it was written: its digest is not that of its numbers; "
                f"{remedy}"
            )
        networks = {
            scheme: MeasuredNetwork(
                **network
                | {part: _by_seed(network.get(part, {})) for part in ("test", "train")}
                | {"latency_ms": tuple(network.get("latency_ms", ()))}
            )
            for scheme, network in document["networks"].items()
        }
        return cls(**document | {"about": About(**document["about"]), "networks": networks})


def _digest(document: Mapping[str, Any]) -> str:
    # As JSON reads it back: keys are texts and tuples are lists.
    return hashlib.sha256(json.dumps(document, allow_nan=False).encode()).hexdigest()


def _by_seed(values: Mapping[str, float]) -> dict[int, float]:
    return {int(seed): value for seed, value in values.items()}


def merged(first: MeasuredNetwork, then: MeasuredNetwork) -> MeasuredNetwork:
    """Return what is known of a network; what came later counts where both know it.

    >>> old = MeasuredNetwork(test={0: 90.0, 1: 91.0}, params=7)
    >>> merged(old, MeasuredNetwork(test={1: 92.0, 2: 93.0})).test
    {0: 90.0, 1: 92.0, 2: 93.0}
    """
    return MeasuredNetwork(
        test={**first.test, **then.test},
        train={**first.train, **then.train},
        params=first.params if then.params is None else then.params,
        macs=first.macs if then.macs is None else then.macs,
        latency_ms=then.latency_ms or first.latency_ms,
    )
