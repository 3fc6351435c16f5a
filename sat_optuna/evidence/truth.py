"""A ground-truth table: how good every scheme of a small network is, trained from scratch.

NAS-Bench-201 (Dong and Yang, ICLR 2020) is such a table of cells; this one is of placements.
"""

import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.files import write_atomically, write_text
from sat_optuna.registry import nearest
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

__all__ = ["Balanced", "Signed", "TruthTable", "load_checked", "load_truth", "save_checked"]

_SCHEMA = 1
Values = NDArray[np.float64]


class Balanced(NamedTuple):
    """The schemes of a table that have the same seeds, without the constant controls.

    Attributes:
        choices: (S, m) of each block.
        valid, test: (S, R) of each seed; NaN where a training is missing.
        seeds: the R seeds.
    """

    choices: NDArray[np.uint8]
    valid: Values
    test: Values
    seeds: tuple[int, ...]


class Signed(NamedTuple):
    """What the schemes and the references reach, the higher the better, as evidence takes it.

    Attributes:
        choices: (S, m) of each block, without the constant controls.
        values: (S, R) of each seed; of a loss -loss. NaN where a training is missing.
        references: by role, what each of its seeds reaches.
        seeds: the R seeds of the columns.
    """

    choices: NDArray[np.uint8]
    values: Values
    references: Mapping[str, Mapping[int, float]]
    seeds: tuple[int, ...]

    def paired(self, role: str) -> tuple[list[float], list[float]]:
        """Return a reference's runs with other seeds than the columns, and those with these.

        The second is (R,), NaN where there is none: `reference` and `paired` of
        `TrueMeans.above`.
        """
        runs = self.references[role]
        others = [value for seed, value in runs.items() if seed not in self.seeds]
        return others, [runs.get(seed, math.nan) for seed in self.seeds]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TruthTable:
    """What every scheme reaches, with several seeds. Missing trainings are NaN.

    Attributes:
        choices: (S, m) of each block: 0 none, k the k-th kind; above the study's K kinds K + k the
            constant control of the k-th, at every block alone.
        seeds: the R seeds of the columns.
        valid: (S, R) the study's metric on the validation images, an accuracy in per cent.
        test: (S, R) the same on the test images.
        valid_loss, test_loss: (S, R) mean log-loss, nats, or the loss of another task.
        train_accuracy: (S, R) per cent of the augmented training images right in the steps of the
            last epoch.
        seconds: (S, R) of a core (on a GPU, of a clock) that each took, with its scoring.
        machine: (S, R) which of `manifest["machines"]` trained it; -1 where it is missing.
        params, macs: (S,) of each network.
        manifest: what decided the trainings and what is in the table; see `save`.
    """

    choices: NDArray[np.uint8]
    seeds: tuple[int, ...]
    valid: Values
    test: Values
    valid_loss: Values
    test_loss: Values
    train_accuracy: Values
    seconds: Values
    machine: NDArray[np.int16]
    params: NDArray[np.int64]
    macs: NDArray[np.int64]
    manifest: Mapping[str, Any]

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(self.manifest["stages"])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The study's kinds of attention, without the constant ones."""
        return tuple(self.manifest["kinds"])

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The scheme of each row."""
        return tuple(Scheme.of(row, self.stages) for row in self.choices)

    @property
    def planned(self) -> NDArray[np.bool_]:
        """(S, R) which trainings belong to the table."""
        columns = np.array(self.seeds)
        every = np.isin(columns, self.manifest["seeds"])
        more = np.isin(columns, self.manifest["reference_seeds"])
        texts = np.array([str(scheme) for scheme in self.schemes])
        references = np.isin(texts, [*self.manifest["references"].values()])
        ordinary = (self.choices <= len(self.kinds)).all(axis=1)
        return np.outer(ordinary, every) | np.outer(references, more)

    @property
    def missing(self) -> int:
        """How many trainings are missing: not made yet, or failed."""
        return int((self.planned & np.isnan(self.valid)).sum())

    @property
    def balanced(self) -> Balanced:
        """The schemes and the seeds that every scheme has."""
        rows = (self.choices <= len(self.kinds)).all(axis=1)
        columns = np.isin(self.seeds, self.manifest["seeds"])
        return Balanced(
            self.choices[rows],
            self.valid[np.ix_(rows, columns)],
            self.test[np.ix_(rows, columns)],
            tuple(np.array(self.seeds)[columns].tolist()),
        )

    def reference(self, role: str, part: str = "valid") -> dict[int, float]:
        """Return what a reference reaches, by seed: plain, full, constant.

        Args:
            role: one of `manifest["references"]`: with several kinds of attention `full-KIND` and
                `constant-KIND`.
            part: "valid" or "test", or another column of (S, R).

        Raises:
            StudyError: there is no such reference.
        """
        if role not in self.manifest["references"]:
            known = ", ".join(self.manifest["references"])
            raise StudyError(f"this table has no reference {role!r}; give one of: {known}")
        row = self.row(self.manifest["references"][role])
        values = dict(zip(self.seeds, getattr(self, part)[row].tolist(), strict=True))
        return {seed: value for seed, value in values.items() if not math.isnan(value)}

    def row(self, scheme: Scheme | str) -> int:
        """Return the row of a scheme.

        Raises:
            StudyError: the table has no such scheme.
        """
        texts = [str(other) for other in self.schemes]
        if str(scheme) not in texts:
            raise StudyError(
                f"this table has no scheme {scheme}; its {len(texts)} schemes have the stages "
                f"{self.stages} and digits up to {self.choices.max()}"
            )
        return texts.index(str(scheme))

    @property
    def measure(self) -> Measure:
        """What the values are in."""
        return Measure(**self.manifest["measure"])

    def signed(self, part: str = "valid") -> Signed:
        """Return the values of all schemes and of the references, the higher the better.

        Args:
            part: "valid", or "test", which no search has seen.
        """
        points, balanced = self.measure.points, self.balanced
        values = {"valid": balanced.valid, "test": balanced.test}[part]
        references = {role: self.reference(role, part) for role in self.manifest["references"]}
        return Signed(
            balanced.choices,
            points(1.0) * values,
            {role: {s: points(v) for s, v in runs.items()} for role, runs in references.items()},
            balanced.seeds,
        )

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write truth.npz and truth.json into a folder and return their paths.

        The JSON is the manifest with the number of trainings done and missing, and what
        `save_checked` adds.
        """
        npz = Path(folder) / "truth.npz"
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "manifest"}
        done = int((~np.isnan(self.valid)).sum())
        known = ("schema", "trainings", "sha256", "sha256_before")
        document = {
            "schema": _SCHEMA,
            **{key: value for key, value in self.manifest.items() if key not in known},
            "trainings": {"done": done, "missing": self.missing},
        }
        return npz, save_checked(npz, arrays, document)

    @classmethod
    def load(cls, folder: str | Path) -> "TruthTable":
        """Read a table; missing trainings are warned of.

        Args:
            folder: that holds truth.npz and truth.json.

        Raises:
            StudyError: it holds none, or one whose bytes have changed.
        """
        npz, path = (Path(folder) / name for name in ("truth.npz", "truth.json"))
        there = [file.name for file in (npz, path) if file.exists()]
        if not there:
            raise StudyError(
                f"{folder} holds no truth table; make one with: sat-optuna truth STUDY"
            )
        if len(there) == 1:
            raise StudyError(
                f"{folder} holds {there[0]} alone, and a truth table is truth.npz and truth.json; "
                "bring the other back from a copy, or move this one away to begin anew"
            )
        stored, manifest = load_checked(npz, "a truth table")
        if manifest.get("schema", 0) > _SCHEMA:
            raise StudyError(
                f"{path} was written by a later version, in its schema {manifest['schema']}; "
                "update sat_optuna to read it"
            )
        arrays = {f.name: stored[f.name] for f in fields(cls) if f.name != "manifest"}
        seeds = tuple(arrays.pop("seeds").tolist())
        table = cls(**arrays, seeds=seeds, manifest=manifest)
        if table.missing:
            warnings.warn(
                f"{table.missing} of {int(table.planned.sum())} trainings of truth table "
                f"{manifest['name']!r} are missing; what is computed uses the others",
                SatOptunaWarning,
                stacklevel=2,
            )
        return table


def save_checked(npz: Path, arrays: Mapping[str, Any], document: Mapping[str, Any]) -> Path:
    """Write arrays, and beside them a JSON document with their SHA-256; return its path.

    The JSON is written before the arrays too, with both checksums, so that what is written over is
    never without its own: an end at any moment leaves the old arrays or the new.

    Args:
        npz: the path of the arrays.
        arrays: by name.
        document: what the JSON says beside. It is read with the old arrays too, if an end comes
            between the files, so that what belongs to each array belongs into the npz.

    Raises:
        WriteError: the disk is full, the folder cannot be written, or the like.
    """
    path, stream = npz.with_suffix(".json"), io.BytesIO()
    np.savez_compressed(stream, **arrays)
    payload = stream.getvalue()
    document = {**document, "sha256": sha256(payload).hexdigest()}

    def write(**more: str) -> None:
        write_text(path, json.dumps(document | more, indent=1) + "\n")

    if npz.exists():
        write(sha256_before=sha256(npz.read_bytes()).hexdigest())
    write_atomically(npz, lambda temporary: temporary.write_bytes(payload))
    write()
    return path


def load_checked(npz: Path, what: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_checked` wrote: the arrays by name, and the document.

    Args:
        npz: the path of the arrays.
        what: they are, for the sentence of an error: "a truth table".

    Raises:
        StudyError: a file is missing or no longer what was written.
    """
    path = npz.with_suffix(".json")
    try:
        payload = npz.read_bytes()
        document = json.loads(path.read_text(encoding="utf-8"))
        given = [document[key] for key in ("sha256", "sha256_before") if key in document]
        first = given[0][:16]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StudyError(
            f"{path} is no manifest of {what} ({error}); bring it back from a copy"
        ) from error
    found = sha256(payload).hexdigest()
    if found not in given:
        raise StudyError(
            f"{npz} is not what {path.name} was written for: its SHA-256 is {found[:16]} and was "
            f"{first}; bring both files back from a copy"
        )
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        return dict(stored), document


def load_truth(table: str | Path) -> TruthTable:
    """Read a ground-truth table; missing trainings are warned of.

        table = sat.load_truth("cued-digits-srm")
        table.valid.mean(axis=1)  # of each of table.schemes

    Args:
        table: a folder that holds truth.npz and truth.json, one of them, or the name of a folder
            truth-NAME under the studies/ of the current folder or of one above it.

    Raises:
        StudyError: there is no such table, or its bytes have changed.
    """
    given = Path(table)
    given = given.parent if given.name in ("truth.npz", "truth.json") else given
    if (given / "truth.json").is_file():
        return TruthTable.load(given)
    here = Path.cwd()
    studies = [folder / "studies" for folder in (here, *here.parents)]
    for folder in studies:
        for name in (f"truth-{table}", str(table)):
            if (folder / name / "truth.json").is_file():
                return TruthTable.load(folder / name)
    known = _known(studies)
    listed = f"known: {', '.join(known)}" if known else "there is none here"
    raise StudyError(
        f"no truth table {str(table)!r}: neither {given / 'truth.json'} nor "
        f"studies/truth-{table}/truth.json exists here or above"
        f"{nearest(str(table), known) or ';'} {listed}; make one with: sat-optuna truth STUDY"
    )


def _known(studies: Sequence[Path]) -> list[str]:
    found = [path.parent.name for folder in studies for path in folder.glob("*/truth.json")]
    return sorted({name.removeprefix("truth-") for name in found})
