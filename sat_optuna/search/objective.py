"""What a scheme is worth: scored in the supernet, folded, or trained as a network of its own.

All objectives are plain Optuna objectives: `study.optimize(objective)` works on them. Called with
`study.best_trial` or another trial of no study, they score its scheme and store nothing.
"""

import contextlib
import hashlib
import json
import threading
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
import torch
from optuna.trial import FixedTrial, FrozenTrial
from torch import nn
from typing_extensions import override

from sat_optuna.config.config import SearchConfig, TrainConfig
from sat_optuna.config.limits import checked
from sat_optuna.config.objectives import objectives_fault
from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.operations import Cost, CostModel
from sat_optuna.data.images import labels_of
from sat_optuna.data.loaders import scored_images, training_images
from sat_optuna.data.split import Split, as_split
from sat_optuna.errors import ConfigError, SatOptunaWarning
from sat_optuna.evaluate import Evaluation, Evaluator, calibration_batches, evaluate_network
from sat_optuna.evaluate.constants import PrefixConstants, scheme_constants
from sat_optuna.evaluate.network import check_metric, weights_digest
from sat_optuna.evaluate.parts import PrefixStatistics
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.processes import worker_name
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import COUNTS_KEY, WORKER_KEY, AnyTrial, suggest_scheme
from sat_optuna.search.storage import together
from sat_optuna.search.study import REWARD, hold_to, name_objectives, note_machine
from sat_optuna.seeds import seed_for
from sat_optuna.supernet.folding import check_foldable, check_trained, folded_network
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.start import warn_of_blind_start
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import Metric, MetricError, Task, as_metric, as_task
from sat_optuna.tasks.classification import CLASSIFICATION
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import to_memory_format

__all__ = ["FoldedObjective", "SupernetObjective", "TrainObjective"]


# Keys of [train] that earlier versions had not, and whose studies go on.
_LATER = (
    *("strategy", "lr_head", "lr_body", "optimizer", "warmup", "clip", "ema"),
    *("augment", "mixup", "cutmix", "crop"),
)
# Trial attribute: how many earlier trials of the study measured the same scheme, where some did.
_REPEATS_KEY = "sat:repeats"


class _SchemeObjective:
    """What the objectives share: the search space, the costs and the trial's attributes."""

    def __init__(
        self,
        net: Supernet,
        data: Split,
        *,
        seed: int,
        sparsity_weight: float,
        task: Task | str,
        metric: Metric | str,
        objectives: Sequence[str],
        latency: LatencyModel | None,
    ) -> None:
        self.net, self.data, self.sparsity_weight = net, as_split(data), sparsity_weight
        self.seed = seed
        self.task = as_task(task)
        self.metric = as_metric(metric, self.task)
        if fault := objectives_fault(objectives, self.metric.name):
            raise ConfigError(type(self).__name__, [f"objectives {fault}"])
        if "latency_ms" in objectives and latency is None:
            raise ConfigError(
                type(self).__name__,
                ["objectives has latency_ms, and latency is None; give what fit_latency returns"],
            )
        self.objectives, self.latency = tuple(objectives), latency
        self.task.check_targets(self.data.targets, of=f"data {self.data.name!r}")
        self._rewarded = ""  # the study whose objective was named last
        self._way: dict[str, Any] = {}  # how a scheme is scored; each objective says its own
        self.stages = net.stages
        self.kinds = tuple(spec.kind for spec in net.specs)
        device = next(net.parameters()).device
        self.train = training_images(self.data.train, device=device, targets=self.task.targets)
        self.valid = scored_images(self.data.valid, device=device, targets=self.task.targets)
        check_metric(self.metric, self.task, self.valid, outputs=self.data.classes)
        self._warn_of_weight()
        self._valid_counts = (
            torch.bincount(labels_of(self.valid), minlength=self.data.classes).tolist()
            if self.task.targets == "labels"
            else None
        )
        self.costs = CostModel(net, self.data.shape)

    def scored_with(self) -> dict[str, Any]:
        """Return what decides the scores of a study, in JSON values."""
        return {
            "weights": self._weights(),
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
            **self._named(),
            # Absent where there is one objective, as in studies of versions that had no others.
            **({"objectives": list(self.objectives)} if self.objectives else {}),
            **({"latency_model": _digest(self.latency.to_dict())} if self.latency else {}),
            **self._way,
        }

    def _weights(self) -> str:
        """Return the digest of the weights that a trial is scored with now."""
        return weights_digest(self.net)

    def _named(self) -> dict[str, Any]:
        """Return task and metric, where they are not those of the studies that name none."""
        task = {} if self.task.name == CLASSIFICATION.name else {"task": self.task.name}
        measure = asdict(self.metric.measure)
        return task | ({} if self.metric.name == CLASSIFICATION.metric else {"metric": measure})

    def _warn_of_weight(self) -> None:
        if self.metric.unit != "%" and self.sparsity_weight == SearchConfig().sparsity_weight:
            unit = self.metric.unit or f"{self.metric.name} (it has no unit)"
            warnings.warn(
                f"sparsity_weight = {self.sparsity_weight} is meant for metrics in per cent; here "
                f"dropping all connections is worth {self.sparsity_weight} {unit}, so set "
                "search.sparsity_weight to what it is worth to you, 0 for nothing",
                SatOptunaWarning,
                stacklevel=4,
            )

    def reward(self, scheme: Scheme, evaluation: Evaluation) -> float:
        """Return the metric + weight x sparsity, the higher the better, in the metric's unit.

        A metric that is better lower counts negative. With the accuracy, per cent, and a weight of
        2 it is LTH4SA's reward in points.
        """
        value = evaluation.score(self.metric.name)
        return self.metric.measure.points(value) + self.sparsity_weight * scheme.sparsity

    def costs_of(self, scheme: Scheme) -> dict[str, float]:
        """Return what a scheme costs: params, macs, and latency_ms where it is known."""
        cost = self.costs.cost(scheme)
        known = {} if self.latency is None else {"latency_ms": self.latency.predict(scheme)}
        return {"params": cost.params, "macs": cost.macs, **known}

    def begin(self, trial: AnyTrial) -> Scheme:
        """Ask for the scheme and note it with its cost, and with the study what scores it.

        Raises:
            StudyError: the study minimises, or its trials were scored with something else.
            ChoiceError: the trial was given choices that are none of a scheme of this network.
        """
        if isinstance(trial, FrozenTrial | FixedTrial):
            return suggest_scheme(trial, self.stages, self.kinds)
        with together(trial.study):
            return self._noted(trial)

    def _noted(self, trial: optuna.Trial) -> Scheme:
        hold_to(trial.study, self.scored_with())
        note_machine(trial.study, self.train.device.type)
        if (
            self._valid_counts and COUNTS_KEY not in trial.study.user_attrs
        ):  # what an accuracy is to be compared with
            trial.study.set_user_attr(COUNTS_KEY, self._valid_counts)
        if self._rewarded != trial.study.study_name:
            self._name_reward(trial.study)
            self._rewarded = trial.study.study_name
        trial.set_user_attr(WORKER_KEY, worker_name())
        scheme = suggest_scheme(trial, self.stages, self.kinds)
        cost: Cost = self.costs.cost(scheme)
        trial.set_user_attr("scheme", str(scheme))
        trial.set_user_attr("sparsity", scheme.sparsity)
        trial.set_user_attr("params", cost.params)
        trial.set_user_attr("macs", cost.macs)
        trial.set_user_attr("elementwise", cost.elementwise)
        if self.latency is not None:
            trial.set_user_attr("latency_ms", self.latency.predict(scheme))
        return scheme

    def _name_reward(self, study: optuna.Study) -> None:
        """Say what the reward is of, where optuna-dashboard shows it; else it is of accuracy."""
        if len(study.directions) > 1 or (study.metric_names or [REWARD]) != [REWARD]:
            return
        measure = self.metric.measure
        minus = "" if measure.better == "higher" else "-"
        unit = f", {measure.unit}" if measure.unit else ""
        named = f"{REWARD}: {minus}{measure.title} + sparsity bonus{unit}"
        name_objectives(study, () if self.metric.name == "accuracy" else (named,))

    def finish(
        self, trial: AnyTrial, scheme: Scheme, evaluation: Evaluation
    ) -> float | tuple[float, ...]:
        """Note what was measured; return the reward, or the value of each objective."""
        reward = self.reward(scheme, evaluation)
        metric = self.metric.measure
        score = metric.points(evaluation.score(metric.name))
        values = {metric.name: score, **self.costs_of(scheme)}
        returned = tuple(values[name] for name in self.objectives) or reward
        if isinstance(trial, FrozenTrial | FixedTrial):
            return returned
        with together(trial.study):
            self._note_scores(trial, evaluation)
            if not self.objectives:
                trial.set_user_attr("reward", reward)
        return returned

    def _note_scores(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        if self.task.targets == "labels":
            trial.set_user_attr("accuracy", evaluation.accuracy)
            trial.set_user_attr("balanced_accuracy", evaluation.balanced_accuracy)
        for name, value in evaluation.scores.items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("loss", evaluation.loss)


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        data: a Split: calibration images come from its training part, scores from its validation
            part.
        sparsity_weight: what dropping all connections is worth, in the metric's unit: of accuracy
            in points.
        calibration: number of training images that set BatchNorm's statistics; 0: schemes are
            scored with the statistics that the supernet has.
        calibration_chunk: images a batch of these; part of the score.
        seed: which images these are.
        cache: bytes of activations that may be kept from scheme to scheme.
        memory: bytes that scoring may take, 0 for no limit.
        task: what the network does, or its name.
        metric: of the task, or its name; the task's usual one if empty.
        objectives: empty for one value, the reward; or names, the metric's and costs among
            "latency_ms", "params", "macs": each trial then returns them all, for a study whose
            `directions` are "maximize" for the metric and "minimize" for costs, and nothing is
            added for sparsity. A metric that is better lower counts negative, as in a reward.
        latency: of `fit_latency`; where it is given, trials are noted with their `latency_ms`.

    Raises:
        ConfigError: the objectives are none.
        DataError: `data` is no Split, or does not fit the network or the task.
        MetricError: the metric has no value on the validation part.
        UnknownName: no such task, or no such metric of it.
    """

    _estimates: type[PrefixStatistics | PrefixConstants] = PrefixStatistics

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
        task: Task | str = CLASSIFICATION,
        metric: Metric | str = "",
        objectives: Sequence[str] = (),
        latency: LatencyModel | None = None,
    ) -> None:
        self._check(net)
        super().__init__(
            net,
            data,
            seed=seed,
            sparsity_weight=sparsity_weight,
            task=task,
            metric=metric,
            objectives=objectives,
            latency=latency,
        )
        self._lock = threading.Lock()
        self._ahead: dict[Scheme, Evaluation] = {}
        self._weights_ahead = ""  # what these were scored with
        drawn = (
            calibration_batches(self.train, count=calibration, chunk=calibration_chunk, seed=seed)
            if calibration
            else ()
        )
        self._way = {
            "calibration": self._counted(calibration),
            "calibration_chunk": calibration_chunk,
        }
        self.evaluator = Evaluator(
            net,
            self.valid,
            calibration=drawn,
            cache=cache,
            memory=memory,
            estimates=self._estimates,
            task=self.task,
            metric=self.metric,
        )

    def _check(self, net: Supernet) -> None:
        """Make sure that a network can be scored so."""

    def _counted(self, calibration: int) -> int | str:
        """Return what a study notes of its calibration images."""
        return calibration

    def score_ahead(self, schemes: Iterable[Scheme]) -> None:
        """Score the schemes of a batch together; the trials that ask for them then need not.

        Each has the value it has alone: together they share the passes of their first blocks.
        """
        self._ahead = {}
        # A scheme without a value fails when its own trial asks for it.
        with self._lock, contextlib.suppress(MetricError):
            self._ahead = self.evaluator.score_many(schemes)
            self._weights_ahead = super()._weights()

    @override
    def _weights(self) -> str:
        # A whole network is read once a batch, not once a trial: 15 ms of a ResNet-110.
        return self._weights_ahead if self._ahead else super()._weights()

    def __call__(self, trial: AnyTrial) -> float | tuple[float, ...]:
        """Score the trial's scheme; the reward in the metric's unit, or each objective's value."""
        scheme = self.begin(trial)
        with self._lock:  # for n_jobs > 1: the supernet's statistics are those of one walk
            evaluation = self._ahead.pop(scheme, None) or self.evaluator.score(scheme)
        return self.finish(trial, scheme, evaluation)


class FoldedObjective(SupernetObjective):
    """Score what is left of a network trained with attention when modules become constants.

    >>> import torch, sat_optuna as sat
    >>> data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    >>> net = sat.Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> history = sat.pretrain(net, data, epochs=1, seed=0, connect=1.0)  # attention everywhere
    >>> objective = sat.FoldedObjective(net, data, calibration=32)
    >>> smaller = objective.folded(sat.Scheme.parse("100-000-001"))  # 7 of 9 modules are gone
    >>> smaller(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 4])

    A module that a scheme drops becomes its mean gate over the calibration images, given the same
    choices before it. BatchNorm keeps its trained statistics and nothing is trained: the score is
    that of `folded(scheme)`, in which the constants are part of other layers and cost nothing.

    Args:
        net: a network trained with its one kind of attention in all blocks.
        data: a Split: calibration images come from its training part, scores from its validation
            part.
        sparsity_weight: what dropping all connections is worth, in the metric's unit.
        calibration: number of training images that gates are averaged over.
        calibration_chunk: images a batch of these; part of the score.
        seed: which images these are.
        cache: bytes of activations that may be kept from scheme to scheme.
        memory: bytes that scoring may take, 0 for no limit.
        task: what the network does, or its name.
        metric: of the task, or its name; the task's usual one if empty.
        objectives: as of `SupernetObjective`.
        latency: as of `SupernetObjective`.

    Raises:
        FoldError: the network was never trained, has several kinds of attention or one that is no
            gate for each channel, or a block has no layer that can hold a constant.
        DataError: `data` is no Split, or does not fit the network, or no calibration is asked for.
    """

    _estimates = PrefixConstants

    @override
    def _check(self, net: Supernet) -> None:
        check_foldable(net)
        check_trained(net)

    @override
    def _counted(self, calibration: int) -> str:
        # In a key that each supernet's study has, so that neither goes on with the other's trials.
        return f"folded over {calibration}"

    def folded(self, scheme: Scheme) -> nn.Module:
        """Return the network that a scheme's score is of: constants are folded into its layers.

        Raises:
            SchemeError: the scheme does not fit the network.
        """
        with self._lock:
            constants = scheme_constants(self.net, scheme, self.evaluator.calibration)
        return folded_network(self.net, scheme, constants)


class TrainObjective(_SchemeObjective):
    """Train the masked CNN itself and report its reward on the validation part each epoch.

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
        sparsity_weight: what dropping all connections is worth, in the metric's unit: of accuracy
            in points.
        config: optimiser, schedule, augmentation, precision.
        body: names of the parameters that were loaded, as of `fit`.
        on_event: told of the training of each trial, as of `fit`.
        task: what the network does, or its name.
        metric: of the task, or its name; the task's usual one if empty.
        objectives, latency: as of `SupernetObjective`; with objectives nothing is pruned.

    Raises:
        ConfigError: `epochs` is below 1, or the objectives are none.
        DataError, MetricError, UnknownName: as of `SupernetObjective`.
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
        task: Task | str = CLASSIFICATION,
        metric: Metric | str = "",
        objectives: Sequence[str] = (),
        latency: LatencyModel | None = None,
    ) -> None:
        checked("TrainObjective", SearchConfig, {"epochs": epochs})
        super().__init__(
            net,
            data,
            seed=seed,
            sparsity_weight=sparsity_weight,
            task=task,
            metric=metric,
            objectives=objectives,
            latency=latency,
        )
        self.on_event, self._body = on_event, body
        self.epochs, self.config = epochs, config or TrainConfig()
        warn_of_blind_start(net, self.data.shape)
        usual = asdict(TrainConfig())
        train = {**asdict(self.config), "compile": None}
        train = {k: v for k, v in train.items() if k not in _LATER or v != usual[k]}
        self._way = {"epochs": epochs, "train": train}
        if self.task.class_weights != "none":
            self._way["class_weights"] = self.task.class_weights

    def __call__(self, trial: AnyTrial) -> float | tuple[float, ...]:
        """Train the trial's scheme; the reward of its last epoch, or each objective's value.

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
                measured.append(self._evaluate(model))
                report(event.made, measured[-1])

        def report(record: EpochRecord, evaluation: Evaluation) -> None:
            if self.objectives:  # Optuna takes reports of one value alone
                return
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
            task=self.task,
        )
        return self.finish(trial, scheme, measured[-1])

    def _evaluate(self, model: torch.nn.Module) -> Evaluation:
        asked = [] if self.metric.name == "accuracy" else [self.metric]
        return evaluate_network(model, self.valid, task=self.task, metrics=asked)

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
