"""Which file holds the weights of a ticket's network, and which scores go with them."""

import re
from dataclasses import replace
from pathlib import Path

from sat_optuna.config.config import decided, differences, fingerprint
from sat_optuna.errors import CheckpointError, StudyError
from sat_optuna.evaluate import calibration_batches
from sat_optuna.evidence.results import RetrainJob, read_result, retrain_fingerprint
from sat_optuna.export import SUFFIXES
from sat_optuna.export.fold import FoldReport, fold_constant
from sat_optuna.export.weights import load_weights, read_ticket
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.outcome import networks_step
from sat_optuna.pipeline.reading import is_exported, open_ticket, study_of
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import TicketNetwork
from sat_optuna.ticket import Score, Ticket
from sat_optuna.training.checkpoint import read_record

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
        self.study = None if folder is None else open_study(folder)

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
        ours = self.study and fingerprint(self.study.config, "pretrain")
        pretrained = ours is not None and record.get("fingerprint") == ours
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

        Raises:
            StudyError: there is none, or study.toml has changed since the ticket was made.
        """
        if self.study is None:
            raise StudyError(
                f"ticket {self.path} does not lie in the tickets/ of a study, whose weights could "
                "be taken; give them with --weights FILE"
            )
        config = self.study.config
        stored, given = (decided(c, "retrain") for c in (self.ticket.config, config))
        if found := differences(stored, given):
            raise StudyError(
                f"ticket {self.path} was made with another study.toml ({'; '.join(found)}); "
                "restore it, or give the ticket's weights with --weights FILE"
            )
        seed = config.retrain.seeds[0] if seed is None else seed
        folder = self.study.work / "retrain" / retrain_fingerprint(config)
        job = RetrainJob(scheme, seed, config, folder)
        if read_result(job) and not job.weights_path.is_file():
            raise StudyError(
                f"the weights {job.weights_path} were removed; move {job.result_path} and "
                f"{self.path} away and run: sat-optuna retrain {self.study.name}, or give weights "
                "with --weights FILE"
            )
        if read_result(job) is None:
            raise StudyError(
                f"scheme {scheme} was not retrained here with seed {seed}; run: sat-optuna "
                f"retrain {self.study.name}, or give its weights with --weights FILE"
            )
        record = self.study.records.get(networks_step(config))
        digest = record.made.get(job.weights_path.name) if record else None
        if digest and sha256_of(job.weights_path) != digest:
            raise StudyError(
                f"{job.weights_path} is not what the retraining made: its bytes have changed "
                "since; bring that file back from a copy, or give weights with --weights FILE"
            )
        return job.weights_path

    def default_out(self, to: str, *, folded: bool) -> Path:
        """Return the file to write without --out: in exports/ of the study, or beside `path`."""
        if self.study is None:
            return self.path.with_suffix(SUFFIXES[to])
        name = f"{self.ticket.role}-{self.ticket.scheme}{'-folded' if folded else ''}"
        return self.study.folder / "exports" / f"{name}{SUFFIXES[to]}"


def folded(
    given: TicketFile, weights: Path | None, seed: int | None
) -> tuple[TicketNetwork, FoldReport]:
    """Fold the study's full network down to the ticket, over the calibration images.

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
    full = replace(given.ticket, role="full", scheme=Scheme.uniform(keep.stages, 1))
    network = load_weights(full, given.weights(full.scheme, weights, seed))
    config = given.study.config
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
