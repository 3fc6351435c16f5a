"""What MLflow lacks of a study: a note in work/, which is there until it is logged.

study.db and work/ hold a study whole, and MLflow has a copy. So the note says only where the copy
belongs, which part of it is missing and why. It is written before a process logs anything, so
that one that is killed leaves it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sat_optuna.errors import readable
from sat_optuna.files import write_text
from sat_optuna.pipeline.done import digest_of
from sat_optuna.processes import is_dead, worker_name

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["KILLED", "Debt", "Owed"]

KILLED = "the process that logged them was killed"


@dataclass(frozen=True, slots=True)
class Debt:
    """What one store lacks of a study.

    Attributes:
        store: its address, without a password.
        parts: "trials", "retrainings" or both.
        why: it lacks them.
        since: when that was first noted, local time.
        worker: the process that is logging them; "" for none.
    """

    store: str
    parts: tuple[str, ...]
    why: str
    since: str
    worker: str = ""

    @property
    def is_left(self) -> bool:
        """Whether nobody is about to pay it."""
        return not self.worker or is_dead(self.worker)

    def __str__(self) -> str:
        why = f"{KILLED}" if self.worker and self.is_left else self.why
        since = self.since.replace("T", " ")
        return f"{self.store} lacks its {' and '.join(self.parts)} since {since} ({why})"


class Owed:
    """The debts of a study, one a store; reading them imports no MLflow.

    Args:
        study: the study's folder.

    Attributes:
        path: the file, which is there only while there is a debt.
    """

    def __init__(self, study: "StudyFolder") -> None:
        from sat_optuna.tracking import store_file, store_uri

        self.path = study.work / "mlflow-owed.json"
        uri = store_uri(study.mlruns)
        self._store = readable(uri)
        # The project's own store moves with it, and has another address then.
        own = store_file(study.mlruns) == study.mlruns.resolve() / "mlflow.db"
        self._key = "mlruns" if own else digest_of(uri)[:12]  # an address may hold a password

    @property
    def here(self) -> Debt | None:
        """What the store lacks that would be used now."""
        debt = self._read().get(self._key)
        return replace(debt, store=self._store) if debt else None

    @property
    def elsewhere(self) -> Sequence[Debt]:
        """What other stores lack."""
        return [debt for key, debt in self._read().items() if key != self._key]

    def lacks(self, part: str) -> bool:
        """Tell whether the store lacks a part, or a killed process left it in disorder."""
        debt = self.here
        return debt is not None and (part in debt.parts or bool(debt.worker and debt.is_left))

    def begin(self, part: str) -> None:
        """Note that this process is about to log a part."""
        self._note(part, why="", worker=worker_name())

    def owe(self, part: str, why: str) -> None:
        """Note that a part could not be logged."""
        self._note(part, why=why, worker="")

    def pay(self, part: str) -> None:
        """Note that a part is logged; with the last of them the file goes."""
        debts = self._read()
        debt = debts.pop(self._key, None)
        if debt and (left := tuple(known for known in debt.parts if known != part)):
            debts[self._key] = Debt(debt.store, left, debt.why or KILLED, debt.since)
        self._write(debts)

    def _note(self, part: str, *, why: str, worker: str) -> None:
        debts = self._read()
        old = debts.get(self._key)
        parts = dict.fromkeys((*(old.parts if old else ()), part))
        since = old.since if old else datetime.now().isoformat(timespec="minutes")
        why = why or (old.why if old else "")
        debts[self._key] = Debt(self._store, tuple(parts), readable(why), since, worker)
        self._write(debts)

    def _read(self) -> dict[str, Debt]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                key: Debt(**{**row, "parts": tuple(row["parts"])}) for key, row in document.items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _write(self, debts: Mapping[str, Debt]) -> None:
        if not debts:
            self.path.unlink(missing_ok=True)
        elif debts != self._read():
            document = {key: asdict(debt) for key, debt in debts.items()}
            write_text(self.path, json.dumps(document, indent=1) + "\n")
