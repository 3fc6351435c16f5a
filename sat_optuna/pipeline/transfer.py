"""A ticket taken elsewhere: a study is made whose ticket is given, and run.

There is no second road: what `transfer` makes is a folder with a study.toml, which `run`,
`retrain`, `report` and `evidence` go on with. Of the source's stored configuration it takes over
what makes sense on the target; all of that stands in study.toml.
"""

import inspect
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal, TypeVar

from sat_optuna.backbones import BACKBONES
from sat_optuna.carry import check_told
from sat_optuna.config.config import (
    AttentionConfig,
    DataConfig,
    EvidenceConfig,
    NetworkConfig,
    PluginsConfig,
    RetrainConfig,
    SearchConfig,
    StudyConfig,
    TaskConfig,
    TrainConfig,
    TransferConfig,
)
from sat_optuna.config.plugins import take_as_run
from sat_optuna.config.template import write_config
from sat_optuna.data import DATASETS
from sat_optuna.errors import SatOptunaError, StudyError
from sat_optuna.events import OnEvent, ignore
from sat_optuna.evidence.claims import LOOKS
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.folder import STUDIES, StudyFolder, open_study
from sat_optuna.pipeline.reading import open_ticket, plugin_files, study_of
from sat_optuna.pipeline.results import RunResult
from sat_optuna.tasks import TASKS
from sat_optuna.ticket import Ticket

__all__ = ["TASKS_OF_TRANSFERS", "make_transfer", "transfer"]

_Section = TypeVar("_Section")

_TICKET, _WEIGHTS = "source.json", "source.safetensors"  # beside study.toml

_FOUND = ("ticket", "searched", "candidate")  # roles of schemes that a search has found

# By task: the network's head, and what C1 allows in the metric's unit: points of accuracy, points
# of mIoU, dots of MAE.
TASKS_OF_TRANSFERS: Mapping[str, tuple[str, float]] = {
    "classification": ("linear", 1.0),
    "segmentation": ("fcn", 1.0),
    "counting": ("density", 0.1),
}


def transfer(
    ticket: str | Path,
    *,
    task: str,
    data: str,
    root: str | Path = "",
    backbone: str = "",
    width: int = 0,
    stem_stride: int = 0,
    init: Literal["scratch", "weights"] = "scratch",
    epochs: int = 0,
    seeds: Sequence[int] = (),
    controls: Literal["few", "full"] = "few",
    study: str | Path = "",
    mlflow: bool = True,
    on_event: OnEvent = ignore,
) -> RunResult:
    """Take a ticket to other data, another network or another task, as `sat-optuna transfer` does.

        sat.transfer("studies/mine/tickets/ticket.json", task="segmentation", data="cued-seg")

    It is trained beside plain, full, its constant control and random tickets of its density, the
    same seeds for all, and judged as each study is. The same call again goes on where it was
    stopped; what is done is not done again. Another call under the same name is refused, unless
    nothing has begun and study.toml is as it was written: then it is made anew.

    Args:
        ticket: a ticket's JSON file, or what `export --to safetensors` wrote.
        task: "classification", "segmentation" or "counting". It chooses the head ("linear", "fcn",
            "density"), the metric (accuracy, miou, mae), what the ticket may lose against full
            (1 point, 1 point, 0.1 dots; that of the source where the task is the same), for
            segmentation balanced classes and for counting AdamW at 0.005.
        data: name of the data set; the source's own is read as it was there, with limit and size.
        root: folder of the data, for data sets that lie in one.
        backbone: another network than the ticket's. A stage of other depth takes the choices by
            nearest relative position, see `sat_optuna.carry`.
        width: channels of the first stage of a CIFAR ResNet; 0 for the ticket's own.
        stem_stride: stride of its first convolution; 0 for the ticket's own.
        init: "scratch"; or "weights": all networks start from those of the source study's plain
            network, retrained with its first seed, and attention begins as the identity.
        epochs: of each training; 0 for the source's.
        seeds: one training a seed and network; empty for 0 to 3.
        controls: "few" for 3 random tickets, or "full" for what `evidence_of(..., seeds=4)` trains
            beside that: 20 random ones and the placements that need no search.
        study: name of the study to make, or its folder; "" for transfer-SOURCE-DATA.
        mlflow: log the trainings to MLflow.
        on_event: told of each step.

    Returns:
        The ticket, its controls, the verdicts and the report's path.

    Raises:
        TicketError: the ticket cannot be read.
        TransferError: it is plain or full.
        UnknownName: nothing is called so.
        StudyError: it is another control, a study of that name is another one, or there are no
            weights to start from.
        ConfigError: ticket, network and data do not fit, each fault a sentence.
    """
    _check_one_of("controls", controls, ("few", "full"))
    made = make_transfer(
        ticket,
        task=task,
        data=data,
        root=root,
        backbone=backbone,
        width=width,
        stem_stride=stem_stride,
        init=init,
        epochs=epochs,
        seeds=seeds,
        study=study,
    )
    result = made.run(mlflow=mlflow, on_event=on_event)
    if controls == "full":
        made.evidence(seeds=LOOKS[0], on_event=on_event)
    return result


def make_transfer(
    ticket: str | Path,
    *,
    task: str,
    data: str,
    root: str | Path = "",
    backbone: str = "",
    width: int = 0,
    stem_stride: int = 0,
    init: str = "scratch",
    epochs: int = 0,
    seeds: Sequence[int] = (),
    study: str | Path = "",
) -> StudyFolder:
    """Make the study of a transfer, or find the one that was made; see `transfer`.

    Raises:
        TicketError, TransferError, UnknownName, StudyError: as of `transfer`.
    """
    path = Path(ticket)
    source = open_ticket(path)
    if source.role == "constant":
        raise StudyError(
            f"{path} is a constant control, whose gates look at nothing, so no attention could be "
            "transferred; give the ticket beside it"
        )
    check_told(source.scheme, source=source.scheme)
    if source.role not in _FOUND:
        raise StudyError(
            f"{path} is the control {source.role}, which no search found, and would be called the "
            "ticket and be held against random ones; give the ticket beside it"
        )
    DATASETS.check(data)
    if task not in TASKS_OF_TRANSFERS:
        raise StudyError(
            f"task is {task!r}; a ticket is transferred to {', '.join(TASKS_OF_TRANSFERS)}, and "
            "to another one by editing the study.toml of such a study"
        )
    _check_one_of("init", init, ("scratch", "weights"))
    if backbone:
        BACKBONES.check(backbone)
    given = Path(study or f"transfer-{_slug(source.study or path.stem)}-{_slug(data)}")
    folder = given if given.name != str(given) else STUDIES / given
    config = _config(
        source,
        task=task,
        data=data,
        root=str(root),
        backbone=backbone,
        width=width,
        stem_stride=stem_stride,
        epochs=epochs,
        seeds=tuple(seeds),
    )
    if init == "weights":
        config = replace(
            config,
            network=replace(config.network, weights=_WEIGHTS),
            retrain=replace(config.retrain, start="weights"),
        )
    if not (folder / "study.toml").exists() or _is_untouched(folder, source):
        _write(folder, path, source, config)
    for copy, file in _plugins(path, folder).items():
        take_as_run(copy, of=file)
    asked: dict[str, Any] = {
        "data.root": str(root),
        "network.backbone": backbone,
        "network.width": width,
        "network.stem_stride": stem_stride,
        "retrain.epochs": epochs,
        "retrain.seeds": tuple(seeds),
    }
    asked = {key: value for key, value in asked.items() if value}
    asked |= {"task.name": task, "data.name": data, "retrain.start": init}
    return _found(folder, path, source, asked)


def _check_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise StudyError(f"{name} is {value!r}; write {' or '.join(map(repr, known))}")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "ticket"


def _found(folder: Path, path: Path, source: Ticket, asked: Mapping[str, Any]) -> StudyFolder:
    """Return the study that is there, if it is the one that is asked for.

    Raises:
        StudyError: it is another one.
    """
    study = open_study(folder)
    other = "give this one another name with --study"
    if study.given is None:
        raise StudyError(f"{folder} holds a study whose ticket is searched for; {other}")
    if _known_by(Ticket.load(study.given)) != _known_by(source):
        raise StudyError(f"{folder} is a transfer of another ticket than {path}; {other}")
    for key, value in asked.items():
        section, _, name = key.partition(".")
        if (has := getattr(getattr(study.config, section), name)) != value:
            raise StudyError(
                f"{folder / 'study.toml'} has {key} = {has!r}, and {value!r} is asked for; leave "
                f"that out, edit it there, or {other}"
            )
    return study


def _known_by(ticket: Ticket) -> tuple[Any, ...]:
    """Return what is carried over of a ticket; retrained or logged again it is the same one."""
    network = (ticket.backbone, ticket.backbone_settings, ticket.attention)
    return (ticket.study_uuid, ticket.scheme, *network, ticket.dataset_fingerprint, ticket.seed)


def _write(folder: Path, path: Path, source: Ticket, config: StudyConfig) -> None:
    """Write what a study needs, study.toml last: a folder without it is none."""
    if config.network.weights:
        _write_weights(folder / _WEIGHTS, path, source)
    plugins = _plugins(path, folder)  # what registers the ticket's network or modules
    for copy, file in plugins.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    names = tuple(str(copy.relative_to(folder)) for copy in plugins)
    config = replace(config, plugins=PluginsConfig(modules=names))
    source.save(folder / _TICKET)
    (folder / "study.toml").unlink(missing_ok=True)  # of a call before, as nobody has touched it
    written = write_config(folder / "study.toml", config)
    made = {written.name: sha256_of(written)}
    StudyFolder(folder).records.write("transfer", Done({}, made, finished=True))


def _is_untouched(folder: Path, source: Ticket) -> bool:
    """Tell whether a study of a ticket is as it was written: nobody edited it, nothing has begun.

    So a call with a wrong option can be made again with the right one.
    """
    study = StudyFolder(folder)
    record, file = study.records.get("transfer"), folder / "study.toml"
    if record is None or study.records.get("given") is not None:
        return False
    ticket = folder / _TICKET
    return record.made == {file.name: sha256_of(file)} and (
        ticket.is_file() and Ticket.load(ticket) == source
    )


def _plugins(path: Path, folder: Path) -> dict[Path, Path]:
    """Return the plugins of the study that a ticket lies in, by where a transfer has its copy."""
    home = study_of(path)
    files = plugin_files(home) if home else ()
    return {folder / file.relative_to(home): file for file in files if home}


def _write_weights(out: Path, path: Path, source: Ticket) -> None:
    """Write the weights of the source study's plain network, of its first seed.

    They are fair to each network, for none has learnt beside attention.

    Raises:
        StudyError: they are not at hand.
    """
    from sat_optuna.export.weights import load_weights
    from sat_optuna.pipeline.ticket_weights import TicketFile
    from sat_optuna.training.checkpoint import save_checkpoint

    plain = path.parent / "plain.json"
    try:
        given = TicketFile(plain)
        network = load_weights(given.ticket, given.retrained(given.ticket.scheme, None))
    except (SatOptunaError, OSError) as error:
        remedy = f"run: sat-optuna retrain {quote(source.study)}" if source.study else ""
        remedy = f"{remedy}, and give" if remedy else "give"
        raise StudyError(
            f"there are no weights to start from, which are those of the plain network beside "
            f"{path} ({error}); {remedy} the ticket in that study's tickets/, or start from "
            "scratch"
        ) from error
    save_checkpoint(out, network.state_dict(), {"plain": given.ticket.study})


def _config(
    source: Ticket,
    *,
    task: str,
    data: str,
    root: str,
    backbone: str,
    width: int,
    stem_stride: int,
    epochs: int,
    seeds: tuple[int, ...],
) -> StudyConfig:
    """Return the configuration of a transfer: the source's as far as it makes sense there."""
    stored, usual = source.config, StudyConfig()
    head, margin = TASKS_OF_TRANSFERS[task]
    same = stored.get("task", {}).get("name", usual.task.name) == task
    retrain = _taken(RetrainConfig, stored.get("retrain", {}), "epochs")
    retrain = replace(retrain, epochs=epochs or retrain.epochs, seeds=seeds or retrain.seeds)
    train = _recipe(_taken(TrainConfig, stored.get("train", {})), task=task, same=same)
    weights = "balanced" if task == "segmentation" else usual.task.class_weights
    kept = _taken(EvidenceConfig, stored.get("evidence", {})) if same and stored else None
    return StudyConfig(
        seed=source.seed,
        threads=stored.get("threads", usual.threads),
        transfer=TransferConfig(ticket=_TICKET),
        data=_data(stored.get("data", {}), name=data, root=root),
        task=_taken(TaskConfig, stored.get("task", {})) if same else TaskConfig(task, weights),
        network=_network(source, head, backbone=backbone, width=width, stem_stride=stem_stride),
        attention=AttentionConfig(source.attention),
        train=replace(train, warmup=min(train.warmup, retrain.epochs - 1)),
        search=replace(
            _taken(SearchConfig, stored.get("search", {}), "latency_batch"),
            metric=TASKS.get(task).metric,
        ),
        retrain=retrain,
        evidence=kept or EvidenceConfig(margin=margin),
    )


def _taken(cls: Callable[..., _Section], stored: Mapping[str, Any], *names: str) -> _Section:
    """Return a section with the values that a ticket stores, of these keys or of all."""
    known = {f.name for f in fields(cls) if "comment" in f.metadata}  # type: ignore[arg-type]
    kept = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stored.items()
        if key in known and (not names or key in names)
    }
    return cls(**kept)


def _data(stored: Mapping[str, Any], *, name: str, root: str) -> DataConfig:
    """Return the data: the source's as it read them, or others as they are."""
    if stored.get("name", DataConfig().name) != name:
        return DataConfig(name=name, root=root)
    return replace(_taken(DataConfig, stored), root=root)


def _recipe(train: TrainConfig, *, task: str, same: bool) -> TrainConfig:
    """Return how networks of a task are trained, as near to the source's way as they can be."""
    train = replace(train, lr_head=0.0, lr_body=0.0)
    if same:
        return train
    # Labels alone are mixed and smoothed, and torchvision's policies know no maps.
    train = replace(train, mixup=0.0, cutmix=0.0, label_smoothing=0.0, augment="none")
    if not TASKS.get(task).maps:
        train = replace(train, crop=0)  # a patch need not have its image's label
    if task == "counting":
        strategy = "auto" if train.strategy == "graph" else train.strategy  # AdamW has no graphs
        train = replace(train, optimizer="adamw", lr=0.005, strategy=strategy)
    return train


def _network(
    source: Ticket, head: str, *, backbone: str, width: int, stem_stride: int
) -> NetworkConfig:
    """Return the network: the source's, or another one with those of its settings that it has."""
    name, settings = backbone or source.backbone, dict(source.backbone_settings)
    settings.pop("head", None)
    if name != source.backbone:
        takes = inspect.signature(BACKBONES.get(name)).parameters
        settings = {
            key: value for key, value in settings.items() if key != "blocks" and key in takes
        }
    return NetworkConfig(
        backbone=name,
        width=width or settings.pop("width", 0),
        stem_stride=stem_stride or settings.pop("stem_stride", 0),
        blocks=tuple(settings.pop("blocks", ())),
        head=head,
        settings={k: v for k, v in settings.items() if k not in ("width", "stem_stride")},
    )
