"""What a scheme is worth: scored in the supernet, or trained as a network of its own.

Both objectives are plain Optuna objectives: `study.optimize(objective)` works on them. Called with
`study.best_trial` or another trial of no study, they score its scheme and store nothing.
"""

import threading
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

import optuna
import torch
from optuna.trial import FixedTrial, FrozenTrial

from sat_optuna.config.config import SearchConfig, TrainConfig
from sat_optuna.config.limits import checked
from sat_optuna.cost.operations import Cost, CostModel
from sat_optuna.data.images import labels_of
from sat_optuna.data.loaders import scored_images, training_images
from sat_optuna.data.split import Split, as_split
from sat_optuna.evaluate import Evaluation, Evaluator, calibration_batches, evaluate_network
from sat_optuna.evaluate.network import weights_digest
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.processes import worker_name
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import COUNTS_KEY, WORKER_KEY, AnyTrial, suggest_scheme
from sat_optuna.search.study import hold_to, note_machine
from sat_optuna.seeds import seed_for
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.start import warn_of_blind_start
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import to_memory_format

__all__ = ["SupernetObjective", "TrainObjective"]


# Keys of [train] that earlier versions had not, and whose studies go on.
_LATER = (
    *("strategy", "lr_head", "lr_body", "optimizer", "warmup", "clip", "ema"),
    *("augment", "mixup", "cutmix"),
)
# Trial attribute: how many earlier trials of the study measured the same scheme, where some did.
_REPEATS_KEY = "sat:repeats"


class _SchemeObjective:
    """What both objectives share: the search space, the costs and the trial's attributes."""

    def __init__(self, net: Supernet, data: Split, *, seed: int, sparsity_weight: float) -> None:
        self.net, self.data, self.sparsity_weight = net, as_split(data), sparsity_weight
        self.seed = seed
        self._way: dict[str, Any] = {}  # how a scheme is scored; each objective says its own
        self.stages = net.stages
        self.kinds = tuple(spec.kind for spec in net.specs)
        device = next(net.parameters()).device
        self.train = training_images(self.data.train, device=device)
        self.valid = scored_images(self.data.valid, device=device)
        self._valid_counts = torch.bincount(
            labels_of(self.valid), minlength=self.data.classes
        ).tolist()
        self.costs = CostModel(net, self.data.shape)

    def scored_with(self) -> dict[str, Any]:
        """Return what decides the scores of a study, in JSON values."""
        return {
            "weights": weights_digest(self.net),
            **({"started_from": self.net.started_from} if self.net.started_from else {}),
            "backbone": self.net.backbone_name,
            "backbone_settings": dict(self.net.backbone_settings),
            "attention": [asdict(spec) for spec in self.net.specs],
            "classes": self.data.classes,
            "input_shape": list(self.data.shape),
            "dataset": self.data.name,
            "dataset_fingerprint": self.data.fingerprint,
            "seed": self.seed,
            "sparsity_weight": self.sparsity_weight,
            **self._way,
        }

    def reward(self, scheme: Scheme, evaluation: Evaluation) -> float:
        """Return accuracy in points + weight x sparsity (LTH4SA: 1 and 2, in these units)."""
        return evaluation.accuracy + self.sparsity_weight * scheme.sparsity

    def begin(self, trial: AnyTrial) -> Scheme:
        """Ask for the scheme and note it with its cost, and with the study what scores it.

        Raises:
            StudyError: the study minimises, or its trials were scored with something else.
            ChoiceError: the trial was given choices that are none of a scheme of this network.
        """
        if isinstance(trial, FrozenTrial | FixedTrial):
            return suggest_scheme(trial, self.stages, self.kinds)
        hold_to(trial.study, self.scored_with())
        note_machine(trial.study, self.train.device.type)
        if COUNTS_KEY not in trial.study.user_attrs:  # what an accuracy is to be compared with
            trial.study.set_user_attr(COUNTS_KEY, self._valid_counts)
        trial.set_user_attr(WORKER_KEY, worker_name())
        scheme = suggest_scheme(trial, self.stages, self.kinds)
        cost: Cost = self.costs.cost(scheme)
        trial.set_user_attr("scheme", str(scheme))
        trial.set_user_attr("sparsity", scheme.sparsity)
        trial.set_user_attr("params", cost.params)
        trial.set_user_attr("macs", cost.macs)
        trial.set_user_attr("elementwise", cost.elementwise)
        return scheme

    def finish(self, trial: AnyTrial, scheme: Scheme, evaluation: Evaluation) -> float:
        """Note what was measured and return the reward."""
        reward = self.reward(scheme, evaluation)
        if isinstance(trial, FrozenTrial | FixedTrial):
            return reward
        trial.set_user_attr("accuracy", evaluation.accuracy)
        trial.set_user_attr("balanced_accuracy", evaluation.balanced_accuracy)
        trial.set_user_attr("loss", evaluation.loss)
        trial.set_user_attr("reward", reward)
        return reward


class SupernetObjective(_SchemeObjective):
    """Score a scheme with the supernet's weights: BatchNorm re-estimated, then validation.

    >>> import torch, sat_optuna as sat
    >>> data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    >>> net = sat.Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> study = optuna.create_study(direction="maximize")
    >>> study.optimize(sat.SupernetObjective(net, data, calibration=32), n_trials=1)
    >>> 0 <= study.best_value <= 102
    True

    The supernet is left as it was found, so the value of a scheme does not depend on what was
    scored before it, or together with it.

    Args:
        net: a pretrained supernet.
        data: a Split: calibration images come from its training part, accuracy from its validation
            part.
        sparsity_weight: accuracy points for all connections dropped.
        calibration: number of training images that set BatchNorm's statistics; 0: schemes are
            scored with the statistics that the supernet has.
        calibration_chunk: images a batch of these; part of the score.
        seed: which images these are.
        cache: bytes of activations that may be kept from scheme to scheme.
        memory: bytes that scoring may take, 0 for no limit.

    Raises:
        DataError: `data` is no Split, or does not fit the network.
    """

    def __init__(
        self,
        net: Supernet,
        data: Split,
        *,
        sparsity_weight: float = 2.0,
        calibration: int = 512,
        calibration_chunk: int = 128,
        seed: int = 0,
        cache: int = 2**28,
        memory: int = 0,
    ) -> None:
        super().__init__(net, data, seed=seed, sparsity_weight=sparsity_weight)
        self._lock = threading.Lock()
        self._ahead: dict[Scheme, Evaluation] = {}
        drawn = (
            calibration_batches(self.train, count=calibration, chunk=calibration_chunk, seed=seed)
            if calibration
            else ()
        )
        self._way = {"calibration": calibration, "calibration_chunk": calibration_chunk}
        self.evaluator = Evaluator(net, self.valid, calibration=drawn, cache=cache, memory=memory)

    def score_ahead(self, schemes: Iterable[Scheme]) -> None:
        """Score the schemes of a batch together; the trials that ask for them then need not.

        Each has the value it has alone: together they share the passes of their first blocks.
        """
        with self._lock:
            self._ahead = self.evaluator.score_many(schemes)

    def __call__(self, trial: AnyTrial) -> float:
        """Score the trial's scheme; the reward, in accuracy points."""
        scheme = self.begin(trial)
        with self._lock:  # for n_jobs > 1: the supernet's statistics are those of one walk
            evaluation = self._ahead.pop(scheme, None) or self.evaluator.score(scheme)
        return self.finish(trial, scheme, evaluation)


class TrainObjective(_SchemeObjective):
    """Train the masked CNN itself and report its validation accuracy each epoch.

    >>> import torch, sat_optuna as sat
    >>> data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    >>> net = sat.Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> study = optuna.create_study(direction="maximize")
    >>> study.optimize(sat.TrainObjective(net, data, epochs=2), n_trials=1)
    >>> list(study.trials[0].intermediate_values)
    [0, 1]

    Args:
        net: the weights that each trial starts from: a fresh supernet for training from scratch,
            a pretrained one for fine-tuning. It is left as it was found.
        data: a Split, whose training and validation part are used.
        epochs: of each trial, at least 1.
        seed: of order and augmentation, the same for each scheme; a trial that measures a scheme
            for the k-th time has the k-th of its own.
        sparsity_weight: accuracy points for all connections dropped.
        config: optimiser, schedule, augmentation, precision.
        body: names of the parameters that were loaded, as of `fit`.
        on_event: told of the training of each trial, as of `fit`.

    Raises:
        ConfigError: `epochs` is below 1.
        DataError: `data` is no Split, or does not fit the network.
    """

    def __init__(
        self,
        net: Supernet,
        data: Split,
        *,
        epochs: int,
        seed: int = 0,
        sparsity_weight: float = 2.0,
        config: TrainConfig | None = None,
        body: Collection[str] = (),
        on_event: OnEvent = ignore,
    ) -> None:
        checked("TrainObjective", SearchConfig, {"epochs": epochs})
        super().__init__(net, data, seed=seed, sparsity_weight=sparsity_weight)
        self.on_event, self._body = on_event, body
        self.epochs, self.config = epochs, config or TrainConfig()
        warn_of_blind_start(net, self.data.shape)
        usual = asdict(TrainConfig())
        train = {**asdict(self.config), "compile": None}
        train = {k: v for k, v in train.items() if k not in _LATER or v != usual[k]}
        self._way = {"epochs": epochs, "train": train}

    def __call__(self, trial: AnyTrial) -> float:
        """Train the trial's scheme; the reward of its last epoch, in accuracy points.

        Raises:
            optuna.TrialPruned: the study's pruner sees no hope.
            TrainingError: the loss is no longer finite.
        """
        scheme = self.begin(trial)
        repeats, reported = self._repeats_and_reports(trial, scheme)
        model = materialise(self.net, scheme)
        to_memory_format(model, self.config, next(self.net.parameters()).device)
        measured: list[Evaluation] = []

        def on_event(event: Event) -> None:
            self.on_event(event)
            if isinstance(event.made, EpochRecord):
                measured.append(evaluate_network(model, self.valid))
                report(event.made, measured[-1])

        def report(record: EpochRecord, evaluation: Evaluation) -> None:
            if record.epoch not in reported:
                trial.report(self.reward(scheme, evaluation), record.epoch)
            # A pruner looks at the last report, which may be a later one of a dead worker.
            newest = record.epoch >= max(reported, default=-1)
            if newest and record.epoch + 1 < self.epochs and trial.should_prune():
                self.finish(trial, scheme, evaluation)
                raise optuna.TrialPruned

        seed = seed_for("trial", self.seed, *([repeats] if repeats else []))
        fit(
            model,
            self.train,
            epochs=self.epochs,
            seed=seed,
            config=self.config,
            body=self._body,
            on_event=on_event,
        )
        return self.finish(trial, scheme, measured[-1])

    def _repeats_and_reports(self, trial: AnyTrial, scheme: Scheme) -> tuple[int, set[int]]:
        """Return how many earlier trials measured the scheme, and the epochs reported already."""
        if isinstance(trial, FrozenTrial | FixedTrial):
            return trial.user_attrs.get(_REPEATS_KEY, 0), set()
        *earlier, own = trial.study.get_trials(deepcopy=False)[: trial.number + 1]
        repeats = sum(other.user_attrs.get("scheme") == str(scheme) for other in earlier)
        if repeats:  # for who scores this trial again, without its study
            trial.set_user_attr(_REPEATS_KEY, repeats)
        # A trial taken over from a dead worker has reported some epochs already.
        return repeats, set(own.intermediate_values)
