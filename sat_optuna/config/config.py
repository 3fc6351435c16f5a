"""The configuration of a study: one frozen dataclass, a section each for the keys of study.toml.

Each key is a dataclass field with its default. The comment that `sat-optuna new` writes beside it,
the limits that checking uses and the steps that the key decides are the field's own metadata, so
they cannot drift apart. The limits hold for a section that is built in Python too: see limits.py.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias

from sat_optuna.config.limits import Checked
from sat_optuna.ticket import AttentionSpec, Setting

__all__ = [
    "IGNORED",
    "MOST_SIZE",
    "OF_GIVEN",
    "AttentionConfig",
    "DataConfig",
    "EvidenceConfig",
    "NetworkConfig",
    "PluginsConfig",
    "PretrainConfig",
    "RetrainConfig",
    "SearchConfig",
    "Step",
    "StudyConfig",
    "TaskConfig",
    "TrainConfig",
    "TransferConfig",
    "TruthConfig",
    "decided",
    "differences",
    "fingerprint",
    "with_trials",
]


Step: TypeAlias = Literal["pretrain", "search", "scores", "retrain", "truth"]
"""`scores` are those of schemes in the supernet, as with objective "supernet"."""


def _key(default: Any, comment: str, **metadata: Any) -> Any:
    """A field with the comment that study.toml shows and what else is known of the key.

    Limits: `least` and `most` (inclusive; of each item of a list), `fewest` (different items of a
    list), `choices` (a tuple), `family` (or a name that begins so), `refused` (by
    value why), `registry` (the name of one that must hold the value).
    `decides`: the steps whose result the key decides, where they are not those of its section.
    """
    metadata = {"comment": comment, **metadata}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


MOST_SIZE = 4096  # pixels a side: a batch of 64 such images takes 13 GB
# Of [search], what a study reads whose ticket is given: how networks are scored and timed.
OF_GIVEN = ("metric", "latency_batch")
IGNORED = 255  # in a mask: a pixel without a class, which is neither learnt nor scored


@dataclass(frozen=True, slots=True)
class DataConfig(Checked):
    """[data]: what is learnt from."""

    name: str = _key("mnist5k", "see: sat-optuna ls datasets", registry="datasets")
    valid: float = _key(0.2, "share of the training part", least=0.01, most=0.9)
    limit: int = _key(
        0, "training images kept, equally from each class as far as it has them; 0: all", least=0
    )
    size: int = _key(
        0,
        "images are resized to size x size, with maps to a longer side of size; 0: their own",
        least=0,
        most=MOST_SIZE,
    )
    root: str = _key(
        "", "folder of the data; empty: where `sat-optuna data get` puts it", decides=()
    )
    workers: int = _key(0, "processes that decode images, for imagefolder", decides=(), least=0)
    sigma: float = _key(
        0.0,
        "pointfolder: of a dot's Gaussian, in its file's pixels; 0: as the dots lie",
        least=0.0,
    )


@dataclass(frozen=True, slots=True)
class TaskConfig(Checked):
    """[task]: what the network learns to do."""

    name: str = _key(
        "classification",
        "or 'multi-label', 'regression', 'segmentation', 'counting', or a plugin's",
        registry="tasks",
    )
    class_weights: str = _key(
        "none",
        "or 'balanced': all classes weigh the same in the loss, however few images they have",
        choices=("none", "balanced"),
    )


@dataclass(frozen=True, slots=True)
class NetworkConfig(Checked):
    """[network]: the CNN whose blocks are asked about."""

    backbone: str = _key("resnet20", "see: sat-optuna ls backbones", registry="backbones")
    width: int = _key(
        0, "CIFAR ResNets: channels of the first stage; 0: the backbone's own, 16", least=0
    )
    stem_stride: int = _key(
        0, "CIFAR ResNets: stride of the first convolution; 0: its own, 1", least=0, most=4
    )
    blocks: tuple[int, ...] = _key(
        tuple, "CIFAR ResNets: blocks of each stage; empty: the backbone's own", least=1
    )
    head: str = _key(
        "linear",
        "or 'fcn', 'deeplabv3' (from ResNet-18 up) for segmentation, 'density' for counting",
        registry="heads",
    )
    settings: Mapping[str, Any] = _key(
        dict, "more that its builder takes, such as { dilated_stages = 1 }"
    )
    weights: str = _key(
        "",
        "trained weights: a state_dict (.pth, .safetensors), for steps with start = 'weights'",
        decides=(),
    )
    pretrained: bool = _key(
        False, "true: the weights that torchvision or timm offer, in place of a file"
    )
    # Not a key: what is in the file of weights, wherever it lies.
    sha256: str = ""

    @property
    def backbone_settings(self) -> dict[str, Any]:
        """The backbone's settings that are asked for, without those left to it."""
        asked = {
            "width": self.width,
            "stem_stride": self.stem_stride,
            "blocks": list(self.blocks),
            "head": "" if self.head == "linear" else self.head,
        }
        return {name: value for name, value in asked.items() if value} | dict(self.settings)


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """[attention]: the modules a block may carry."""

    kinds: tuple[AttentionSpec, ...] = _key(
        lambda: (AttentionSpec(kind="se", settings={"reduction": 16}),),
        "each block: none, or one of these",
    )


@dataclass(frozen=True, slots=True)
class TrainConfig(Checked):
    """[train]: how every network of the study is trained."""

    batch: int = _key(64, "images a step", least=1)
    lr: float = _key(0.1, "peak learning rate", least=1e-8)
    lr_head: float = _key(
        0.0, "start = 'weights': peak rate of the head and of attention; 0: lr", least=0.0
    )
    lr_body: float = _key(
        0.0, "start = 'weights': peak rate of the weights that were loaded; 0: lr", least=0.0
    )
    optimizer: str = _key(
        "sgd",
        "or 'adamw', which takes far lower rates (0.001) and more decay (0.05)",
        choices=("sgd", "adamw"),
    )
    momentum: float = _key(0.9, "of SGD", least=0.0, most=0.9999)
    nesterov: bool = _key(True, "Nesterov's form of momentum, of SGD")
    weight_decay: float = _key(5e-4, "on all parameters", least=0.0)
    schedule: str = _key(
        "one-cycle",
        "or 'cosine', or 'step' (a tenth after 1/2 and after 3/4 of the epochs)",
        choices=("one-cycle", "cosine", "step"),
    )
    warmup: int = _key(
        0, "epochs in which the rate climbs to its peak; 0: none, of one-cycle 3 tenths", least=0
    )
    clip: float = _key(0.0, "largest norm of the gradient of a step; 0: no limit", least=0.0)
    ema: float = _key(
        0.0,
        "the network becomes the moving average of its steps, such as 0.999; 0: the last step",
        least=0.0,
        most=0.999999,
    )
    label_smoothing: float = _key(
        0.0, "share of the label spread over all classes", least=0.0, most=0.9
    )
    crop: int = _key(
        0,
        "of maps: side of the random square patches that are learnt from; 0: whole images",
        least=0,
    )
    shift: int = _key(2, "augmentation: random shifts of up to so many pixels", least=0)
    flip: bool = _key(False, "augmentation: random mirroring")
    cutout: int = _key(0, "augmentation: side of a square set to zero", least=0)
    augment: str = _key(
        "none",
        "or 'randaugment', 'trivialaugment', 'augmix', 'autoaugment': torchvision's",
        choices=("none", "randaugment", "trivialaugment", "augmix", "autoaugment"),
    )
    mixup: float = _key(
        0.0, "images and labels of a batch are mixed: alpha, such as 0.2; 0: not", least=0.0
    )
    cutmix: float = _key(
        0.0, "rectangles and labels are swapped: alpha, such as 1; with mixup either", least=0.0
    )
    precision: str = _key(
        "auto",
        "or 'float32', 'bfloat16', 'float16'; auto: what pays on this device",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    memory_format: str = _key(
        "auto",
        "or 'contiguous', 'channels_last'; auto: what pays on this device",
        choices=("auto", "contiguous", "channels_last"),
    )
    strategy: str = _key(  # a supernet that is trained already is not trained anew
        "auto",
        "or 'eager', 'graph' (CUDA graphs; a supernet has one a block); auto: what pays here",
        choices=("auto", "eager", "graph"),
        decides=("trials", "retrain", "truth"),
    )
    compile: bool = _key(  # a supernet is never compiled, nor what is scored in it
        False,
        "torch.compile for networks of one scheme; pays? `bench training --compile` says",
        decides=("trials", "retrain", "truth"),
    )


@dataclass(frozen=True, slots=True)
class PretrainConfig(Checked):
    """[pretrain]: the supernet under random schemes."""

    epochs: int = _key(10, "epochs of the supernet", least=1)
    connect: float = _key(
        0.5,
        "probability of a connection in a random scheme; no matter if 'balanced'",
        least=0.0,
        most=1.0,
    )
    draws: str = _key(
        "iid",
        "or 'antithetic' (scheme, then its complement), 'balanced' (each choice equally often)",
        choices=("iid", "antithetic", "balanced"),
    )
    start: str = _key(
        "scratch",
        "or 'weights', those of [network]; attention begins as the identity where it can",
        choices=("scratch", "weights"),
    )


@dataclass(frozen=True, slots=True)
class SearchConfig(Checked):
    """[search]: the Optuna study."""

    objective: str = _key(
        "supernet",
        "or 'train'; or 'folded': which modules of a network trained with attention may go",
        choices=("supernet", "train", "folded"),
    )
    sampler: str = _key(
        "policy",
        "or 'paper', 'tpe', 'random', 'nsga2', 'gp', 'brute-force', 'optunahub:NAME'",
        choices=("policy", "paper", "tpe", "random", "nsga2", "gp", "brute-force"),
        family="optunahub:",
        refused={
            "cmaes": "CMA-ES knows no categorical parameters, and Optuna's would draw each block "
            "at random; choose another, such as 'nsga2' or 'optunahub:catcmawm'"
        },
    )
    sampler_settings: Mapping[str, Setting] = _key(
        dict, "of Optuna's or the hub's sampler, such as { n_startup_trials = 20 }"
    )
    trials: int = _key(60, "finished trials of the study", least=1, decides=())
    batch: int = _key(8, "trials asked, scored and told together", least=1)
    metric: str = _key(
        "accuracy",
        "of the task, on the validation part; see: sat-optuna ls metrics",
        registry="metrics",
        decides=("search", "retrain", "truth"),
    )
    objectives: tuple[str, ...] = _key(
        tuple,
        'empty: one reward; or a front, ["accuracy", "latency_ms"]; other costs: params, macs',
    )
    sparsity_weight: float = _key(
        2.0, "what dropping all connections is worth, in the metric's unit: accuracy points"
    )
    max_connections: int = _key(
        0,
        "only schemes of at most so many connections are proposed; 0: no limit",
        least=0,
    )
    max_params: int = _key(0, "or of at most so many parameters; 0: no limit", least=0)
    max_macs: int = _key(0, "or of at most so many multiply-adds; 0: no limit", least=0)
    max_latency_ms: float = _key(
        0.0, "or of at most so many milliseconds a batch, measured here; 0: no limit", least=0.0
    )
    max_latency_share: float = _key(
        1.0,
        "or of at most this share of what the first kind in all blocks adds; 1: no limit",
        least=0.01,
        most=1.0,
    )
    latency_batch: int = _key(128, "images a batch whose milliseconds are measured", least=1)
    fixed: Mapping[str, str] = _key(
        dict, 'blocks left out of the search, such as { "s1.b00" = "none", "s3.b02" = "se" }'
    )
    replicates: int = _key(
        1,
        "objective 'train': trials a promising scheme may get, each of its own seed",
        least=1,
    )
    calibration: int = _key(
        512,
        "training images that set BatchNorm before a scheme is scored",
        least=2,
    )
    calibration_chunk: int = _key(
        128,
        "of these in one batch, the last smaller; part of the score, as they are",
        least=2,
    )
    recalibrate: bool = _key(
        True,
        "false: schemes are scored with the statistics that pretraining left",
    )
    held_back: float = _key(
        0.0,
        "share of valid that the search does not see, to find blocks to drop; 0: none",
        least=0.0,
        most=0.9,
    )
    timeout: float = _key(
        0.0, "seconds after which no new batch is asked; 0: none", least=0.0, decides=()
    )
    epochs: int = _key(2, "objective 'train': epochs of a trial", least=1)
    start: str = _key(
        "scratch",
        "objective 'train': or 'supernet' (its weights), 'weights' (those of [network])",
        choices=("scratch", "supernet", "weights"),
    )
    pruner: str = _key(
        "none",
        "objective 'train': or 'median', 'halving', 'hyperband'",
        choices=("none", "median", "halving", "hyperband"),
    )

    @property
    def limits_latency(self) -> bool:
        """Whether schemes are held to a latency."""
        return self.max_latency_ms > 0 or self.max_latency_share < 1

    @property
    def uses_latency(self) -> bool:
        """Whether the search needs to know what each scheme takes."""
        return self.limits_latency or "latency_ms" in self.objectives


@dataclass(frozen=True, slots=True)
class RetrainConfig(Checked):
    """[retrain]: the ticket and its controls, on train + validation."""

    epochs: int = _key(10, "epochs of a retraining", least=1, decides=("retrain", "truth"))
    start: str = _key(
        "scratch",
        "or 'weights', those of [network]: ticket and controls are fine-tuned from them",
        choices=("scratch", "weights"),
    )
    seeds: tuple[int, ...] = _key(
        lambda: (0, 1, 2, 3),
        "one retraining a seed, at least 3; verdicts are told of 4, 8 or 16",
        least=0,
        fewest=3,
        decides=(),
    )
    workers: int = _key(
        0,
        "retrainings at the same time; 0: as many as the cores take",
        least=0,
        decides=(),
    )


@dataclass(frozen=True, slots=True)
class TransferConfig(Checked):
    """[transfer]: a ticket that is given, not searched for; `sat-optuna transfer` writes it."""

    ticket: str = _key(
        "",
        "a ticket's file; to another depth by nearest position; empty: a search finds it",
    )


@dataclass(frozen=True, slots=True)
class TruthConfig(Checked):
    """[truth]: every scheme from scratch, on the training part alone, [retrain] epochs."""

    seeds: tuple[int, ...] = _key(
        lambda: (0, 1), "of every scheme, one training a seed", least=0, fewest=1, decides=()
    )
    reference_seeds: tuple[int, ...] = _key(
        lambda: tuple(range(16)), "of plain, full and constant", least=0, fewest=1, decides=()
    )


@dataclass(frozen=True, slots=True)
class EvidenceConfig(Checked):
    """[evidence]: what the verdicts allow; nothing is trained otherwise for it."""

    margin: float = _key(
        1.0,
        "what the ticket may lose against full and keep the metric, in its unit: points, dots",
        least=0.0,
    )


@dataclass(frozen=True, slots=True)
class PluginsConfig(Checked):
    """[plugins]: what a study brings itself."""

    modules: tuple[str, ...] = _key(
        tuple, "Python files beside study.toml that register networks, modules, data sets"
    )
    # Not a key: what was in the files when they were run. Other code gives other results.
    sha256: tuple[str, ...] = ()


# Metadata of a section: the steps whose result its keys decide, each a Step or "trials", which is
# a search that trains a network in each trial.
_EVERY_STEP = ("pretrain", "search", "retrain", "truth")
# What one objective of a search alone reads.
_OF_TRAIN = ("search.epochs", "search.start", "search.pruner", "search.replicates")
# And search.calibration_chunk.
_OF_SUPERNET = ("search.calibration", "search.recalibrate", "search.held_back")


@dataclass(frozen=True, slots=True)
class StudyConfig(Checked):
    """A whole study.toml."""

    seed: int = _key(0, "everything random is a function of this", least=0, decides=_EVERY_STEP)
    threads: int = _key(
        1,
        "of each process; more pay on an otherwise idle machine alone, and change last bits",
        least=1,
        decides=_EVERY_STEP,
    )
    device: str = _key(
        "auto", "or 'cpu', 'cuda', 'cuda:1'; auto: a GPU where there is one", decides=()
    )
    # The scheme that it comes to is known beside these keys, as that of a search is.
    transfer: TransferConfig = field(default_factory=TransferConfig, metadata={"decides": ()})
    data: DataConfig = field(default_factory=DataConfig, metadata={"decides": _EVERY_STEP})
    task: TaskConfig = field(default_factory=TaskConfig, metadata={"decides": _EVERY_STEP})
    network: NetworkConfig = field(
        default_factory=NetworkConfig, metadata={"decides": _EVERY_STEP}
    )
    attention: AttentionConfig = field(
        default_factory=AttentionConfig, metadata={"decides": _EVERY_STEP}
    )
    train: TrainConfig = field(default_factory=TrainConfig, metadata={"decides": _EVERY_STEP})
    pretrain: PretrainConfig = field(
        default_factory=PretrainConfig, metadata={"decides": ("pretrain", "search")}
    )
    search: SearchConfig = field(default_factory=SearchConfig, metadata={"decides": ("search",)})
    retrain: RetrainConfig = field(
        default_factory=RetrainConfig, metadata={"decides": ("retrain",)}
    )
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig, metadata={"decides": ()})
    truth: TruthConfig = field(default_factory=TruthConfig, metadata={"decides": ()})
    plugins: PluginsConfig = field(
        default_factory=PluginsConfig, metadata={"decides": _EVERY_STEP}
    )

    @property
    def is_given(self) -> bool:
        """Whether the ticket is given, so that nothing is pretrained or searched."""
        return bool(self.transfer.ticket)

    @property
    def from_weights(self) -> tuple[Step, ...]:
        """The steps that start from the weights that [network] names."""
        starts: dict[Step, str] = {
            "pretrain": self.pretrain.start,
            "search": self.search.start if self.search.objective == "train" else "scratch",
            "retrain": self.retrain.start,
        }
        return tuple(step for step, start in starts.items() if start == "weights")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, section by section."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def decided(config: StudyConfig | Mapping[str, Any], step: Step) -> dict[str, Any]:
    """Return the keys that decide a step's result and are not at their defaults.

    >>> decided(StudyConfig(seed=3, search=SearchConfig(trials=9, batch=4)), "search")
    {'seed': 3, 'search.batch': 4}

    Args:
        config: a configuration, or the `to_dict()` of one.
        step: the step that is asked about.
    """
    document = config.to_dict() if isinstance(config, StudyConfig) else config
    if step == "scores":
        search = {**document.get("search", {}), "objective": "supernet"}
        return decided({**document, "search": search}, "search")
    flat, usual = _flatten(document), _flatten(StudyConfig().to_dict())
    by_training = flat.get("search.objective", usual["search.objective"]) == "train"
    asked = {step, "trials"} if step == "search" and by_training else {step}
    free = {key for key, steps in _decides() if asked.isdisjoint(steps)}
    # Weights decide what starts from them, a search also through the supernet that it scores with.
    starts = [flat.get(f"{step}.start")] if step != "search" or by_training else []
    starts += [flat.get("pretrain.start")] if step == "search" else []
    if "weights" not in starts:
        free |= {"network.pretrained", "network.sha256"}
    # A key at its default is left out, so that a later version may add keys.
    decide = {k: v for k, v in flat.items() if k not in free and v != usual.get(k)}
    return _read(decide) if step == "search" else decide


def _read(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, by section.key, without those that a search's objective does not read."""
    unread = {
        ("supernet", "scratch"): _OF_TRAIN,
        ("supernet", "supernet"): _OF_TRAIN,
        ("supernet", "weights"): _OF_TRAIN,
        ("train", "supernet"): _OF_SUPERNET,
        ("train", "scratch"): (*_OF_SUPERNET, "pretrain."),
        ("train", "weights"): (*_OF_SUPERNET, "pretrain."),
    }
    usual = SearchConfig()
    objective = flat.get("search.objective", usual.objective)
    keys = unread.get((objective, flat.get("search.start", usual.start)), ())
    return {key: value for key, value in flat.items() if not key.startswith(keys)}


def fingerprint(config: StudyConfig | Mapping[str, Any], step: Step) -> str:
    """Return 16 hex digits that change with any key that decides a step's result.

    Args:
        config: a configuration, or the `to_dict()` of one.
        step: the step that is asked about.
    """
    text = json.dumps(decided(config, step), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a phrase for each key in which two results of `decided` differ.

    A key that the objective of either does not read is no difference: earlier versions stored it.

    >>> differences({"seed": 3}, {})
    ('seed: 3 is stored, 0 is given',)
    """
    usual = _flatten(StudyConfig().to_dict())
    # A list around each value tells an absent one, [], from any other.
    old = {key: [value] for key, value in (usual | _read(stored)).items()}
    new = {key: [value] for key, value in (usual | _read(given)).items()}
    return tuple(
        f"{key}: {_shown(old.get(key, []))} is stored, {_shown(new.get(key, []))} is given"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, []) != new.get(key, [])
    )


def _shown(value: Sequence[Any]) -> str:
    return repr(value[0]) if value else "nothing"


def _flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by section.key; a key that holds a table is one value."""
    flat: dict[str, Any] = {}
    for section, value in document.items():
        keys = value if isinstance(value, Mapping) else None
        flat |= {section: value} if keys is None else {f"{section}.{k}": keys[k] for k in keys}
    return flat


def _decides() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key of study.toml with the steps that it decides."""
    for section in fields(StudyConfig):
        steps = section.metadata["decides"]
        default = getattr(StudyConfig(), section.name)
        if not is_dataclass(default):
            yield section.name, steps
            continue
        for spec in fields(default):
            yield f"{section.name}.{spec.name}", spec.metadata.get("decides", steps)


def with_trials(config: StudyConfig, trials: int | None) -> StudyConfig:
    """Return the configuration with another `search.trials` where one is given."""
    if trials is None:
        return config
    return replace(config, search=replace(config.search, trials=trials))
