"""Results of a long evaluation, a line of JSON each behind a line that says what they are of."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sat_optuna.errors import SatOptunaError, SchemeError, WriteError
from sat_optuna.evaluate.evaluator import Evaluator
from sat_optuna.evaluate.network import bytes_of, weights_digest
from sat_optuna.evaluate.parts import PrefixStatistics
from sat_optuna.evaluate.results import SchemeResult
from sat_optuna.events import OnEvent, ignore
from sat_optuna.scheme import Scheme

__all__ = ["Journal", "JournalError"]

_FORMAT = 1


class JournalError(SatOptunaError, ValueError):
    """A file of results that is broken or of another evaluation."""


class Journal:
    """An evaluation whose results are kept in a file, so that it can go on after any end.

    Opening the file makes it, and drops a last line that a kill cut. A file that was begun with
    fewer images a pass, under a limit of memory, goes on with as many: another chunk would change
    the last bits of a loss.

    Args:
        path: the file.
        evaluator: what scores the schemes.

    Attributes:
        held: the results in the file.
        chunk: images a pass.

    Raises:
        JournalError: the file holds results of another evaluation, or a line that is none.
        WriteError: it cannot be made or written.
    """

    def __init__(self, path: Path, evaluator: Evaluator) -> None:
        self.path, self.chunk = path, evaluator.chunk
        self.held: dict[Scheme, SchemeResult] = {}
        self._evaluator = evaluator
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise self._unwritable(error) from error
        whole = content.rfind(b"\n") + 1
        head, *lines = content[:whole].splitlines() or [b""]
        identity = _identity_of(evaluator)
        begun = json.dumps(identity | {"chunk": evaluator.chunk, "unit": evaluator.unit}) + "\n"
        if not head and begun.encode().startswith(content):  # new, or cut by a kill
            self._write(0, begun)
            return
        self._check(head, identity)
        for number, line in enumerate(lines, start=2):
            try:
                result = _parsed(json.loads(line))
            except (ValueError, TypeError, LookupError, SchemeError) as error:
                raise JournalError(
                    f"{path}, line {number} is no result; remove the line, or move the file away "
                    "to score all schemes again"
                ) from error
            self.held[result.scheme] = result
        self._end = whole

    def score(
        self, schemes: Iterable[Scheme], *, on_event: OnEvent = ignore
    ) -> dict[Scheme, SchemeResult]:
        """Score the schemes that the file has no results of yet; each unit is added when done.

        Args:
            schemes: any number; one that is given twice is scored once.
            on_event: called after the work of each scheme that is scored now.

        Returns:
            The results of the schemes asked for, in the order given.

        Raises:
            SchemeError: a scheme does not fit the network.
            WriteError: the disk is full, or the like; what was written before is kept.
        """
        asked = tuple(dict.fromkeys(schemes))
        left = [scheme for scheme in asked if scheme not in self.held]
        done = len(asked) - len(left)
        for unit in self._evaluator.results(left, chunk=self.chunk, done=done, on_event=on_event):
            self._append(unit)
        return {scheme: self.held[scheme] for scheme in asked}

    def _append(self, results: Iterable[SchemeResult]) -> None:
        """Write results to the disk at once, all or, where that fails, none."""
        new = tuple(results)
        self._write(self._end, "".join(f"{_line(result)}\n" for result in new))
        self.held |= {result.scheme: result for result in new}

    def _check(self, head: bytes, identity: Mapping[str, Any]) -> None:
        try:
            stored = json.loads(head)
            # A file of the accuracy says neither task nor metric, as in version 0.2.0.
            named = ("task", "metric")
            changed = [
                key for key in identity if key not in named and stored[key] != identity[key]
            ]
            changed += [key for key in named if stored.get(key) != identity.get(key)]
            chunk = int(stored["chunk"])
        except (ValueError, TypeError, LookupError) as error:
            raise JournalError(
                f"{self.path} does not begin as a file of results does; move it away"
            ) from error
        if changed:
            raise JournalError(
                f"{self.path} holds results of another {' and '.join(changed)} than is here now; "
                "bring that back to go on with it, or move the file away to score all schemes "
                "again"
            )
        if chunk > self.chunk:
            raise JournalError(
                f"{self.path} holds results of {chunk} images a pass, and {self.chunk} is the "
                "most that is allowed now; allow as many (--memory) to go on with it, or move the "
                "file away to score all schemes again"
            )
        self.chunk = chunk

    def _write(self, start: int, text: str) -> None:
        payload = memoryview(text.encode())
        try:
            # Without a buffer: what a full disk does not take must not be tried again later.
            with self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as stream:
                stream.truncate(start)  # what a kill cut
                stream.seek(start)
                try:
                    done = 0
                    while done < len(payload):
                        done += stream.write(payload[done:])
                    os.fsync(stream.fileno())
                except OSError:
                    stream.truncate(start)
                    raise
        except OSError as error:
            raise self._unwritable(error) from error
        self._end = start + len(payload)

    def _unwritable(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write {self.path}: {error.strerror or error}; the results before are kept, "
            "so make room and run the same command again"
        )


def _identity_of(evaluator: Evaluator) -> dict[str, Any]:
    """Return what decides the results of an evaluator, its chunk aside, in values of JSON."""
    pixels = hashlib.sha256()
    for x, labels in evaluator.images.batches(None, 500):
        pixels.update(bytes_of(x) + bytes_of(labels))
    calibrated = hashlib.sha256()
    if evaluator.way != PrefixStatistics.way:  # which the journals of before do not say
        calibrated.update(evaluator.way.encode())
    for batch in evaluator.calibration:
        calibrated.update(f"{tuple(batch.shape)}".encode() + bytes_of(batch))
    metric = evaluator.metric.name
    named = {} if metric == "accuracy" else {"task": evaluator.task.name, "metric": metric}
    return {
        "format": _FORMAT,
        "stages": list(evaluator.stages),
        "kinds": [spec.kind for spec in evaluator.net.specs],
        "weights": weights_digest(evaluator.net),
        "images": pixels.hexdigest(),
        "calibration": calibrated.hexdigest(),
        **named,
    }


def _line(result: SchemeResult) -> str:
    record = {
        "scheme": str(result.scheme),
        "hits": result.hits,
        "loss": result.loss,
        "n": result.n,
        "right": base64.b64encode(result.right).decode(),
    }
    metric = {} if result.metric is None else {"metric": result.metric}
    return json.dumps(record | metric)


def _parsed(record: Mapping[str, Any]) -> SchemeResult:
    """Return the result of a record.

    Raises:
        ValueError, TypeError, LookupError, SchemeError: it is none.
    """
    result = SchemeResult(
        scheme=Scheme.parse(record["scheme"]),
        right=base64.b64decode(record["right"], validate=True),
        loss=float(record["loss"]),
        n=int(record["n"]),
        metric=float(record["metric"]) if "metric" in record else None,
    )
    # A task without labels has no bits.
    bits = (result.n + 7) // 8 if result.right or result.metric is None else 0
    if result.hits != record["hits"] or len(result.right) != bits:
        raise ValueError("impossible numbers")
    return result
