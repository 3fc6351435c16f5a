"""What a study's steps work with, put together from study.toml; each is built once a process."""

import math
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from sat_optuna.attention import ATTENTION, OWN, attention_faults
from sat_optuna.backbones import BACKBONES, build_backbone
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.heads import pads
from sat_optuna.backbones.view import carrying_own, view_of
from sat_optuna.backbones.weights import (
    can_fetch,
    ending_of,
    fetch_weights,
    fitted_weights,
    head_of,
    new_head_text,
    read_weights,
)
from sat_optuna.config.config import fingerprint
from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.operations import CostModel
from sat_optuna.data import DATASETS, examine_configured, load_configured
from sat_optuna.data.augment import check_crop
from sat_optuna.data.examined import Examined
from sat_optuna.data.images import IndexedImages, check_outputs, labels_of
from sat_optuna.data.split import Split, stratified_subset
from sat_optuna.device import DeviceError, memory_for
from sat_optuna.errors import (
    ConfigError,
    DataError,
    SatOptunaError,
    SatOptunaWarning,
    StudyError,
    errors_as,
)
from sat_optuna.evaluate.network import check_metric
from sat_optuna.events import Event, OnEvent
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.given import carried_here
from sat_optuna.pipeline.latency import knows_latency, latency_here
from sat_optuna.pipeline.results import Opened
from sat_optuna.registry import nearest
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import FoldedObjective, SupernetObjective, TrainObjective
from sat_optuna.search.space import cost_limit, scheme_space
from sat_optuna.search.study import HUB, StudySampler, build_sampler
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.folding import FoldError, check_foldable
from sat_optuna.supernet.placement import placement_faults
from sat_optuna.supernet.start import warn_of_blind_start
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.supernet.weights import LoadedWeights, load_weights
from sat_optuna.tasks import Metric, Task, as_metric, build_task
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import load_tensors, save_checkpoint
from sat_optuna.training.loop import Checkpoint, check_recipe
from sat_optuna.training.precision import arithmetic_for, pick_device
from sat_optuna.training.step import check_compiler

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.registry import Registry

__all__ = ["StudyParts"]


class StudyParts:
    """Data, networks and objective of one study.

    Args:
        study: whose study.toml says what they are.
    """

    def __init__(self, study: "StudyFolder") -> None:
        self._study, self._config = study, study.config
        self._input_is_checked = False

    @cached_property
    def data(self) -> Split:
        """The data set, on the GPU where there is one.

        Raises:
            DataError: it cannot be read, its targets are another task's, or a later step would
                find no whole test part.
            MetricError: the metric has no value on its validation part.
        """
        seed, device = self._config.seed, str(pick_device(self._config.device))
        split = load_configured(self._config.data, seed=seed, device=device)
        split.check_test()
        self.task.check_targets(split.targets, of=f"data {split.name!r}")
        check_metric(self.metric, self.task, split.valid, outputs=split.classes)
        return split

    @cached_property
    def _valid_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the validation part that the search sees, and those held back from it."""
        valid, share = self.data.valid, self._config.search.held_back
        count = len(valid)
        if not share:
            return torch.arange(count), torch.arange(0)
        keep = min(max(round(share * count), 2), count - 2)
        if keep < 2:
            raise DataError(
                f"{count} validation images are too few to hold some back from the search; write "
                "held_back = 0 under [search], or raise data.valid"
            )
        key = ("held back", self._config.seed)
        if self.data.targets == "labels":
            held = stratified_subset(labels_of(valid), keep, *key)
        else:
            held = torch.randperm(count, generator=generator_for(*key))[:keep].sort().values
        seen = torch.ones(count, dtype=torch.bool)
        seen[held] = False
        return seen.nonzero().flatten(), held

    @property
    def search_data(self) -> Split:
        """The data set as the search sees it: without the validation images held back from it."""
        seen, held = self._valid_rows
        if not len(held):
            return self.data
        return replace(self.data, valid=cast("IndexedImages", self.data.valid).subset(seen))

    @property
    def held_back(self) -> IndexedImages:
        """The validation images that the search does not see."""
        return cast("IndexedImages", self.data.valid).subset(self._valid_rows[1])

    @property
    def task(self) -> Task:
        """What the study's networks learn to do."""
        asked = self._config.task
        return build_task(asked.name, class_weights=asked.class_weights)

    @property
    def metric(self) -> Metric:
        """What a scheme's reward is of."""
        return as_metric(self._config.search.metric, self.task)

    def tell_of_data(self, on_event: OnEvent) -> None:
        """Tell what a user should know of how the data are read; opens them."""
        if self.data.remarks:
            opened = Opened(remarks=self.data.remarks)
            on_event(Event(step="data", done=1, total=1, made=opened, finished=True))

    def check_fit(self) -> tuple[int, ...]:
        """Make sure that backbone, modules and images fit together; nothing is trained.

        Returns:
            The number of blocks of each stage.

        Raises:
            ConfigError: all faults at once.
        """
        return self._fitting_stages

    @property
    def schemes(self) -> int:
        """How many schemes the network has."""
        return int((len(self._config.attention.kinds) + 1) ** sum(self.check_fit()))

    def check_all(self) -> tuple[tuple[int, ...], Examined]:
        """Make sure that network and data are without fault; see `check_fit`.

        Returns:
            The number of blocks of each stage, and what the data hold.

        Raises:
            ConfigError: all faults of both at once.
        """
        stages: tuple[int, ...] = ()
        faults: list[str] = []
        try:
            stages = self.check_fit()
        except ConfigError as error:
            faults += error.faults
        data = Examined()
        try:
            data = examine_configured(self._config.data, seed=self._config.seed)
            if data.targets:
                self.task.check_targets(data.targets, of=f"data {self._config.data.name!r}")
        except SatOptunaError as error:
            faults.append(str(error))
        faults += [*data.faults, *self._batch_faults(data), *self._device_faults(stages)]
        if stages and data.shape:
            faults += self._input_faults(data.shape)
            faults += self._weights_faults(data.shape, len(data.counts.get("train", ())) or 2)
        if not faults and self.metric.name != "accuracy":  # which always has a value
            try:
                _ = self.data
            except SatOptunaError as error:
                faults.append(str(error))
        if faults:
            raise ConfigError(str(self._study.folder / "study.toml"), dict.fromkeys(faults))
        return stages, data

    def _device_faults(self, stages: tuple[int, ...]) -> list[str]:
        """Return why the device cannot be had, or not train the network, if one can be built."""
        try:
            device = pick_device(self._config.device)
            if stages:
                with torch.device("meta"):
                    net = self._supernet(in_channels=3, classes=2)
                arithmetic_for(self._config.train, net, device)
        except DeviceError as error:
            return [str(error)]
        except ConfigError as error:
            return [*error.faults]
        return []

    def _batch_faults(self, data: Examined) -> list[str]:
        """Return why a batch of these data cannot be made."""
        faults, batch = [], self._config.train.batch
        images = data.images.get("train", 0)
        if images and batch > images:
            faults.append(
                f"train.batch = {batch} is more than the {images} images to train on; write at "
                f"most {images}"
            )
        policy = self._config.train.augment
        if policy != "none" and data.shape and data.shape[0] not in (1, 3):
            faults.append(
                f"train.augment is {policy!r}, which changes images of 1 or 3 channels, and these "
                f"have {data.shape[0]}; write 'none'"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if data.shape and (taken := 4 * batch * math.prod(data.shape)) > memory:
            shape = "x".join(map(str, data.shape))
            faults.append(
                f"a batch of {batch} images of {shape} takes {taken / 1e9:.0f} GB and this "
                f"machine has {memory / 1e9:.0f} GB; set data.size, or lower train.batch"
            )
        return faults

    @cached_property
    def _fitting_stages(self) -> tuple[int, ...]:
        network, kinds = self._config.network, self._config.attention.kinds
        own = OWN in [spec.kind for spec in kinds]
        stages: tuple[int, ...] = ()
        try:
            with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
                backbone = build_backbone(
                    network.backbone, in_channels=3, classes=2, **network.backbone_settings
                )
                view = view_of(backbone, own=own)
            self._say_stacked(carrying_own(view))
            stages, faults = view.stage_sizes, placement_faults(kinds, view.stage_channels)
        except SatOptunaError as error:
            others = [spec for spec in kinds if spec.kind != OWN]
            faults = [str(error), *(f for spec in others for f in attention_faults(spec))]
        faults = faults or [
            *self._given_faults(stages),
            *self._recipe_faults(),
            *self._pretrained_faults(),
            *self._script_faults(),
            *self._fixed_faults(Scheme.parameter_names(stages)),
            *self._folded_faults(),
            *self._input_faults(),
        ]
        if faults:
            raise ConfigError(str(self._study.folder / "study.toml"), faults)
        return stages

    def _given_faults(self, stages: tuple[int, ...]) -> list[str]:
        """Return why the ticket that is given cannot go to this network."""
        if self._study.given is None:
            return []
        try:
            carried_here(self._study, stages)
        except SatOptunaError as error:
            return [f"transfer.ticket: {error}"]
        return []

    def _say_stacked(self, blocks: int) -> None:
        """Warn where attention comes on top of what the network's blocks carry themselves."""
        kinds = " and ".join(spec.kind for spec in self._config.attention.kinds)
        if blocks:
            warnings.warn(
                f"{blocks} blocks of {self._config.network.backbone} carry attention of their "
                f"own, and {kinds} comes on top of it; to ask which of their own is needed, set "
                'kinds = ["own"] under [attention]',
                SatOptunaWarning,
                stacklevel=2,
            )

    def _recipe_faults(self) -> list[str]:
        """Return what [train] asks for that the task has not."""
        try:
            check_recipe(self._config.train, self.task)
        except DataError as error:
            return [str(error)]
        return []

    def _pretrained_faults(self) -> list[str]:
        """Return that nobody offers trained weights of this network."""
        network = self._config.network
        if not network.pretrained or can_fetch(network.backbone):
            return []
        return [
            f"network.pretrained is true, and nobody offers trained weights of backbone "
            f"{network.backbone!r}; take one of torchvision's or timm's, or set network.weights "
            "to a file"
        ]

    def _weights_faults(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Return why the file of trained weights does not fit; say whether the head is new."""
        config, path = self._config, self._study.weights_path
        if not config.from_weights or not config.network.weights:
            return []
        try:
            with torch.device("meta"):
                net = self._supernet(in_channels=shape[0], classes=classes)
            fitted = fitted_weights(
                read_weights(path),
                net.backbone_weights(),
                head=head_of(net.backbone),
                ending=ending_of(net.backbone),
                source=f"weights {path}",
            )
        except SatOptunaError as error:
            return [str(error)]
        if fitted.new_head:
            warnings.warn(new_head_text(f"weights {path}", fitted), SatOptunaWarning, stacklevel=2)
        return []

    def _folded_faults(self) -> list[str]:
        """Return why modules of the network cannot become constants, where the search asks it."""
        if self._config.search.objective != "folded":
            return []
        try:
            with torch.device("meta"):
                check_foldable(self._supernet(in_channels=3, classes=2))
        except FoldError as error:
            return [str(error)]
        return []

    def _script_faults(self) -> list[str]:
        """Return which names the running script registers, where retraining cannot find them."""
        named: list[tuple[Registry[Any], str]] = [
            (BACKBONES, self._config.network.backbone),
            (DATASETS, self._config.data.name),
            *((ATTENTION, s.kind) for s in self._config.attention.kinds if s.kind != OWN),
        ]
        # What is registered as a value is known by the function in it.
        metric, task = self.metric, self.task
        values = [(metric.name, metric.of), (task.name, task.loss)]
        here = [name for name, function in values if function.__module__ == "__main__"]
        here += [n for r, n in named if getattr(r.get(n), "__module__", "") == "__main__"]
        return [
            f"{name!r} is registered by the script that runs now, which the processes of "
            "retraining do not run; move it into a file that [plugins] modules lists"
            for name in here
        ]

    def _fixed_faults(self, blocks: Sequence[str]) -> list[str]:
        """Return which of the fixed blocks are none, or that all are fixed."""
        fixed = self._config.search.fixed
        faults = [
            f"search.fixed names {name!r}, which is no block of {self._config.network.backbone}"
            f"{nearest(name, blocks) or ';'} its {len(blocks)} blocks are {blocks[0]} to "
            f"{blocks[-1]}"
            for name in fixed
            if name not in blocks
        ]
        if fixed.keys() == set(blocks):
            faults.append(
                f"search.fixed names all {len(blocks)} blocks, so that nothing is left to search; "
                "leave one free"
            )
        return faults

    def _input_faults(self, shape: tuple[int, int, int] | None = None) -> list[str]:
        """Return why the data's images do not go through the network, if their size is known.

        Args:
            shape: (C, H, W) of them; None asks the data set, which may know it unread.
        """
        data = self._config.data
        try:
            shape = shape or DATASETS.get(data.name)().image_shape(data.size or None)
            if shape is None:
                return []
            # Shapes alone; but what a plugin says of its own network is compared in values.
            for device in ("meta", "cpu") if self._study.plugins else ("meta",):
                with torch.device(device):
                    net = self._supernet(in_channels=shape[0], classes=2)
                    net.check_input(shape)
                    if (trained := self._trained(shape)) != shape:
                        net.check_input(trained)
                    with evaluating(net), torch.no_grad():
                        outputs = net(torch.zeros(1, *shape), Scheme.uniform(net.stages, 0))
                    check_outputs(outputs, self.task.targets, shape)
            self._check_single(shape)
        except SatOptunaError as error:
            return [str(error)]
        return []

    def warn_of_start(self) -> None:
        """Warn where no scheme can differ at the beginning, if the images' size is known."""
        data = self._config.data
        shape = DATASETS.get(data.name)().image_shape(data.size or None)
        weighted = self._config.pretrain.start == "weights"
        if shape is None or (weighted and not self._study.weights_path.is_file()):
            return  # pretraining will say it
        net = self._supernet(in_channels=shape[0], classes=2)
        if weighted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SatOptunaWarning)  # its two classes say nothing
                load_weights(net, self._study.weights_path)
        warn_of_blind_start(net, shape)

    def _check_single(self, shape: tuple[int, int, int]) -> None:
        """Make sure that the network can be trained on one image at a time, if it shall be.

        BatchNorm of a single value a channel has no variance, and torch refuses it. Of calibration
        images no batch holds one alone, and a last batch that is not full is not trained on.

        Raises:
            BackboneError: it cannot.
        """
        if self._config.train.batch > 1:
            return
        with torch.device("meta"):
            net = self._supernet(in_channels=shape[0], classes=2).train()
            image = torch.zeros(1, *self._trained(shape))
        network = self._config.network
        for choice in range(len(net.specs) + 1):
            kind = net.specs[choice - 1].kind if choice else "without attention it"
            with errors_as(
                BackboneError,
                f"train.batch = 1 makes a batch of one image, and {kind} needs more in "
                f"{network.backbone}" + f" with head {network.head!r}" * pads(network.head),
                "write batch = 2 at least, or take larger images or another module or head",
            ):
                net(image, Scheme.uniform(net.stages, choice))

    def _trained(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of what is learnt from: of patches, where they are asked for.

        Raises:
            DataError: they cannot be cut.
        """
        crop, task = self._config.train.crop, self.task
        return check_crop(crop, maps=task.maps, task=task.name, shape=shape)

    def _supernet(self, *, in_channels: int, classes: int) -> Supernet:
        network = self._config.network
        return Supernet(
            network.backbone,
            attention=self._config.attention.kinds,
            in_channels=in_channels,
            classes=classes,
            seed=self._config.seed,
            **network.backbone_settings,
        )

    def fresh_supernet(self) -> Supernet:
        """Build a supernet with fresh weights, on the GPU where there is one."""
        self.check_fit()
        net = self._supernet(in_channels=self.data.shape[0], classes=self.data.classes)
        if not self._input_is_checked:
            net.check_input(self.data.shape)
            self._check_single(self.data.shape)  # a folder's size was not known before
            self._input_is_checked = True
        with memory_for("the network", "take a smaller one"):
            return net.to(pick_device(self._config.device))

    def loaded_supernet(self) -> tuple[Supernet, LoadedWeights]:
        """Build a supernet whose backbone has the trained weights that [network] names.

        Those of torchvision and timm are fetched once and kept in work/.

        Raises:
            WeightsError: they cannot be had, or do not fit.
            StudyError: they have changed since they were fetched.
        """
        net = self.fresh_supernet()
        if self._config.network.pretrained:
            self._fetch_weights()
        loaded = load_weights(net, self._study.weights_path)
        if loaded.digest != self._study.weights_digest:
            raise StudyError(
                f"weights {self._study.weights_path} have changed since study "
                f"{self._study.name!r} read them; bring that file back, or make a new study"
            )
        return net, loaded

    def _fetch_weights(self) -> None:
        path, network = self._study.weights_path, self._config.network
        record = self._study.records.get("weights")
        known = record.made.get(path.name) if record else None
        if known and path.is_file():
            return
        tensors = fetch_weights(
            network.backbone, in_channels=self.data.shape[0], settings=network.backbone_settings
        )
        save_checkpoint(path, tensors, {"pretrained": network.backbone})
        made = {path.name: sha256_of(path)}
        if known and known != made[path.name]:
            path.unlink()
            raise StudyError(
                f"the weights of {network.backbone} that are offered now are not those that study "
                f"{self._study.name!r} began with; bring {path} back from a copy, or make a new "
                "study"
            )
        self._study.records.write("weights", Done({}, made, finished=True))

    def any_supernet(self) -> Supernet:
        """Return a supernet of this study with whatever weights: the objective's, or a fresh one.

        It must not be trained.
        """
        built = "objective" in self.__dict__
        return self.objective.net if built else self.fresh_supernet()

    @cached_property
    def _costs(self) -> CostModel:
        return CostModel(self.any_supernet(), self.data.shape)

    def ticket(self, scheme: Scheme, *, role: str = "ticket") -> Ticket:
        """Return the ticket of a scheme of this study that no trial has scored."""
        config, cost = self._config, self._costs.cost(scheme)
        return Ticket(
            role=role,
            scheme=scheme,
            backbone=config.network.backbone,
            backbone_settings=config.network.backbone_settings,
            attention=config.attention.kinds,
            classes=self.data.classes,
            input_shape=self.data.shape,
            dataset=self.data.name,
            dataset_fingerprint=self.data.fingerprint,
            seed=config.seed,
            params=cost.params,
            macs=cost.macs,
            config=config.to_dict(),
            weights=self._study.weights_digest,
        )

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the pretraining keeps its state."""
        return Checkpoint(self._study.supernet_path, fingerprint(self._config, "pretrain"))

    def trained_supernet(self) -> Supernet:
        """Build the supernet with the pretrained weights.

        Raises:
            StudyError: it is not pretrained yet, or its file is not what the pretraining made.
        """
        self._study.check_supernet()
        net = self.fresh_supernet()
        tensors = load_tensors(self._study.supernet_path)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k[:6] == "model."}
        net.load_state_dict(weights)
        if self._config.pretrain.start == "weights":
            net.started_from = self._study.weights_digest
        return net

    def supernet_objective(self, **more: Any) -> SupernetObjective:
        """Build what scores schemes in the pretrained supernet, as study.toml says.

        It is a FoldedObjective where study.toml asks for that.

        Args:
            **more: of the objective, what changes no accuracy: `cache`, `memory`, `objectives`,
                `latency`.

        Raises:
            StudyError: the supernet is not pretrained yet.
        """
        search = self._config.search
        folded = search.objective == "folded"
        return (FoldedObjective if folded else SupernetObjective)(
            self.trained_supernet(),
            self.search_data,
            sparsity_weight=search.sparsity_weight,
            calibration=search.calibration if search.recalibrate or folded else 0,
            calibration_chunk=search.calibration_chunk,
            seed=self._config.seed,
            task=self.task,
            metric=search.metric,
            **more,
        )

    @cached_property
    def objective(self) -> SupernetObjective | TrainObjective:
        """The objective of the search and of its random control.

        Raises:
            StudyError: the supernet is not pretrained yet.
        """
        search = self._config.search
        if search.objective != "train":
            return self.supernet_objective(objectives=search.objectives, latency=self.latency)
        body: Collection[str] = ()
        if search.start == "weights":
            net, loaded = self.loaded_supernet()
            body = loaded.body
        elif search.start == "supernet":
            net = self.trained_supernet()
        else:
            net = self.fresh_supernet()
        return TrainObjective(
            net,
            self.data,
            epochs=search.epochs,
            seed=self._config.seed,
            sparsity_weight=search.sparsity_weight,
            config=self._config.train,
            body=body,
            task=self.task,
            metric=search.metric,
            objectives=search.objectives,
            latency=self.latency,
        )

    @cached_property
    def latency(self) -> LatencyModel | None:
        """The latency model of the study; None where the search asks for none.

        Raises:
            StudyError: it is not there, or its bytes have changed.
        """
        return latency_here(self._study) if self._config.search.uses_latency else None

    def sampler(self) -> StudySampler:
        """Build the sampler of the search, held to the limits of study.toml.

        Raises:
            StudyError: no scheme keeps them.
        """
        return self._built_sampler(self.latency)

    def _built_sampler(self, latency: LatencyModel | None) -> StudySampler:
        search, more = self._config.search, self._limits(latency)
        if search.sampler.startswith(HUB):
            kinds = [spec.kind for spec in self._config.attention.kinds]
            more["space"] = scheme_space(self.check_fit(), kinds)
        return build_sampler(
            search.sampler,
            seed=self._config.seed,
            batch=search.batch,
            settings=search.sampler_settings,
            **more,
        )

    def check_search(self) -> None:
        """Make sure, before anything is trained, that the search can be made and compiled for.

        Where the ticket is given there is none to be made.

        Raises:
            StudyError: no scheme keeps the limits.
            CompileError: train.compile, and torch.compile does not work here.
        """
        # `check` measures nothing: where no latency is known yet, `run` measures it first.
        known = self._config.search.uses_latency and knows_latency(self._study)
        if not self._config.is_given:
            self._built_sampler(self.latency if known else None)
        if self._config.train.compile:
            check_compiler(pick_device(self._config.device))

    def _limits(self, latency: LatencyModel | None) -> dict[str, Any]:
        """Return what the sampler has to keep to and may repeat, of those keys that are set."""
        search = self._config.search
        limits: dict[str, Any] = {"replicates": search.replicates} if search.replicates > 1 else {}
        limited = search.max_connections or search.max_params or search.max_macs
        if not (limited or search.fixed or search.limits_latency):
            return limits
        kinds = [spec.kind for spec in self._config.attention.kinds]
        stages = self.check_fit()
        limits["search_space"] = scheme_space(stages, kinds)
        if search.fixed:
            limits["fixed"] = search.fixed
        if search.max_connections:
            limits["max_connections"] = search.max_connections
        budget = {}
        if search.max_params or search.max_macs:
            costs = CostModel(self.any_supernet(), self.data.shape)
            if search.max_params:
                params = costs.affine("params")
                budget["params"] = cost_limit(params, stages, at_most=search.max_params)
            if search.max_macs:
                macs = costs.affine("macs")
                budget["macs"] = cost_limit(macs, stages, at_most=search.max_macs)
        if latency and search.limits_latency:
            most = self._most_ms(latency)
            budget["latency_ms"] = cost_limit(latency.affine(), stages, at_most=most)
        return {**limits, "budget": budget} if budget else limits

    def _most_ms(self, latency: LatencyModel) -> float:
        """Return the milliseconds that no scheme may exceed.

        Raises:
            StudyError: a share is asked for, and attention takes no time.
        """
        search, plain = self._config.search, latency.plain_ms.value
        if search.max_latency_ms:
            return search.max_latency_ms
        full = latency.predict(Scheme.uniform(latency.stages, 1))
        if full <= plain:
            raise StudyError(
                f"search.max_latency_share is a share of what {latency.kinds[0]} in all blocks "
                f"adds, and here it adds nothing ({full:.3g} ms, {plain:.3g} without); set "
                "search.max_latency_ms, or raise search.latency_batch in a new study"
            )
        return plain + search.max_latency_share * (full - plain)
