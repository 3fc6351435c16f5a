"""Which file holds the weights of a ticket's network, and which scores go with them."""

import re
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, cast

from torch import nn

from sat_optuna.config.config import decided, differences, fingerprint
from sat_optuna.errors import CheckpointError, StudyError
from sat_optuna.evaluate import calibration_batches
from sat_optuna.evidence.results import kept_in, retrain_fingerprint
from sat_optuna.export import SUFFIXES
from sat_optuna.export.fold import FoldReport, fold_constant
from sat_optuna.export.weights import load_weights, read_ticket
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.folder import StudyFolder
from sat_optuna.pipeline.outcome import networks_step
from sat_optuna.pipeline.reading import is_exported, open_ticket, study_of
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Score, Ticket
from sat_optuna.training.checkpoint import read_record

if TYPE_CHECKING:
    from sat_optuna.search.objective import FoldedObjective

__all__ = ["TicketFile", "folded", "scores_with"]

# A checkpoint of a training does not say what it belongs to; its file name does.
_SUPERNET = "supernet.safetensors"
_RETRAINED = re.compile(r"([0-9a-z]+(?:-[0-9a-z]+)*)\.seed\d+\.safetensors")


class TicketFile:
    """The ticket that was given, and the study that it lies in.

    Attributes:
        path: the ticket's JSON file, or an exported safetensors file that holds it.
        exported: whether `path` is an exported file.
        ticket: the ticket itself.
        study: the study in whose tickets/ folder the file lies; None if it lies elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exported = is_exported(path)
        self.ticket = open_ticket(path)
        folder = None if self.exported else study_of(path)
        self.study = None if folder is None else StudyFolder(folder)

    def weights(self, scheme: Scheme, given: Path | None, seed: int | None) -> Path:
        """Return the file that holds the weights of a scheme.

        Args:
            scheme: the ticket's scheme, or full.
            given: a file to take; None for the study's own. It is refused if its record or its
                name says that it belongs to another network.
            seed: of the study's own retraining; None for the first.

        Raises:
            CheckpointError: the file given is of the supernet or of another scheme.
            StudyError: no file was given, and the study has none that fits.
        """
        if given is None:
            return self.retrained(scheme, seed)
        try:
            record = read_record(given)
        except (CheckpointError, OSError):
            return given  # reading its tensors will say what is wrong with it
        if "ticket" in record:
            return given  # loading it compares its ticket with the network
        ours = fingerprint(self.ticket.config, "pretrain")
        pretrained = self.study is not None and record.get("fingerprint") == ours
        if pretrained or given.name == _SUPERNET:
            raise CheckpointError(
                f"{given} holds the weights of the supernet, not of scheme {scheme}; give those "
                "of a retraining"
            )
        named = _RETRAINED.fullmatch(given.name)
        if named and named[1] != str(scheme):
            raise CheckpointError(
                f"{given} does not hold the weights of scheme {scheme}: by its name it is the "
                f"retraining of {named[1]}; give those of this very network"
            )
        return given

    def retrained(self, scheme: Scheme, seed: int | None) -> Path:
        """Return the file of the study's own weights of a scheme, for a seed or the first one.

        Which these are is said by the configuration in the ticket; study.toml may have changed.

        Raises:
            StudyError: there is none, or its bytes have changed.
        """
        if self.study is None:
            raise StudyError(
                f"ticket {self.path} does not lie in the tickets/ of a study, whose weights could "
                "be taken; give them with --weights FILE"
            )
        config = self.ticket.config
        if seed is None:
            tested = [score.seed for score in self.ticket.scores if score.split == "test"]
            seed = (tested or config.get("retrain", {}).get("seeds") or [0])[0]
        folder = self.study.work / "retrain" / retrain_fingerprint(config)
        result, weights = kept_in(folder, scheme, seed)
        self._check_plugins(self.study.folder)
        record = self.study.records.get(networks_step(config))
        digest = record.made.get(weights.name) if record else None
        other = ", or give weights with --weights FILE"
        if config.get("search", {}).get("objective") == "folded":
            other += ", or take the network that was scored with --fold-constant"
        if not weights.is_file() and (digest or result.is_file()):
            raise StudyError(
                f"the weights {weights} were removed; move {quote(str(result))} and "
                f"{quote(str(self.path))} away and run: sat-optuna retrain "
                f"{self.study.argument}{other}"
            )
        if not weights.is_file():
            changed = differences(*(decided(c, "retrain") for c in (config, self.study.config)))
            asked = f"restore its study.toml ({'; '.join(changed)}) and run" if changed else "run"
            raise StudyError(
                f"scheme {scheme} was not retrained here with seed {seed}; {asked}: sat-optuna "
                f"retrain {self.study.argument}{other}"
            )
        if digest != sha256_of(weights):
            known = "its bytes have changed since" if digest else "no record says that it is"
            raise StudyError(
                f"{weights} is not what the retraining made: {known}; bring work/ back from a "
                f"copy{other}"
            )
        return weights

    def _check_plugins(self, folder: Path) -> None:
        """Make sure that the ticket's plugins hold the code that its network was trained with."""
        plugins = self.ticket.config.get("plugins", {})
        digests = plugins.get("sha256", [])
        for name, digest in zip(plugins.get("modules", []), digests, strict=False):
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                raise StudyError(
                    f"plugin {folder / name} is not the one that ticket {self.path} was made "
                    "with; restore it, or give the ticket's weights with --weights FILE"
                )

    def default_out(self, to: str, *, mark: str = "") -> Path:
        """Return the file to write without --out: in exports/ of the study, or beside `path`.

        Args:
            to: a key of `SUFFIXES`.
            mark: what tells the file from the ticket's usual one, at the end of its name.
        """
        if self.study is None:
            return self.path.with_name(f"{self.path.stem}{mark}{SUFFIXES[to]}")
        name = f"{self.ticket.role}-{self.ticket.scheme}{mark}"
        return self.study.folder / "exports" / f"{name}{SUFFIXES[to]}"


def folded(
    given: TicketFile, weights: Path | None, seed: int | None
) -> tuple[nn.Module, FoldReport | None]:
    """Fold the study's full network down to the ticket, over the calibration images.

    Of a study whose objective is 'folded' that is the network that was scored, without a report:
    the network that it trained, with the constants of the score.

    Args:
        given: the ticket's file, which lies in its study.
        weights: of the full network; None for the study's own.
        seed: of the study's own retraining; None for the first.

    Raises:
        StudyError: the ticket lies in no study, or uses another kind than the first.
    """
    if given.study is None:
        raise StudyError(
            f"ticket {given.path} does not lie in the tickets/ of a study, whose images "
            "--fold-constant takes means over; give one that does"
        )
    keep = given.ticket.scheme
    _check_first_kind(given.ticket)
    config = given.study.config
    if changed := differences(*(decided(c, "scores") for c in (given.ticket.config, config))):
        raise StudyError(
            f"ticket {given.path} was made with another study.toml ({'; '.join(changed)}), which "
            "says what --fold-constant takes means over; restore it"
        )
    if config.search.objective == "folded" and weights is None and seed is None:
        objective = given.study.parts.supernet_objective(cache=0)
        return cast("FoldedObjective", objective).folded(keep).eval(), None
    full = replace(given.ticket, role="full", scheme=Scheme.uniform(keep.stages, 1))
    network = load_weights(full, given.weights(full.scheme, weights, seed))
    images = given.study.parts.data.train
    search = config.search
    batches = calibration_batches(
        images, count=search.calibration, chunk=search.calibration_chunk, seed=config.seed
    )
    return fold_constant(network.to(images.device), keep, batches)


def _check_first_kind(ticket: Ticket) -> None:
    """Make sure that a ticket uses only the first kind, which the full network carries.

    Raises:
        StudyError: the ticket uses another kind.
    """
    first = ticket.attention[0].kind
    for stage, choices in enumerate(ticket.scheme.by_stage(), start=1):
        for block, choice in enumerate(choices, start=1):
            if choice > 1:
                raise StudyError(
                    f"the study's full network carries {first} everywhere and this ticket uses "
                    f"kind {choice} ({ticket.attention[choice - 1].kind}) at stage {stage}, block "
                    f"{block}, which folding cannot keep; export it without --fold-constant"
                )


def scores_with(weights: Path, ticket: Ticket) -> tuple[Score, ...]:
    """Return the scores that the file of some weights holds for this ticket, if any."""
    if "ticket" not in read_record(weights):
        return ()
    stored = read_ticket(weights)
    same = replace(stored, scores=()) == replace(ticket, scores=())
    return stored.scores if same else ()
