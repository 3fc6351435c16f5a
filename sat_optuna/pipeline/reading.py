"""Reading a study.toml or a ticket, with the plugins it needs."""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sat_optuna.config.config import StudyConfig
from sat_optuna.config.plugins import PluginError, load_plugins
from sat_optuna.config.reader import (
    Names,
    given_ticket_of,
    parse_config,
    plugins_of,
    read_toml,
)
from sat_optuna.errors import (
    ConfigError,
    DataError,
    SatOptunaError,
    SatOptunaWarning,
    TicketError,
    UnknownName,
)
from sat_optuna.export import SUFFIXES
from sat_optuna.files import check_is_file, sha256_of
from sat_optuna.ticket import Ticket

__all__ = [
    "given_ticket",
    "is_exported",
    "open_ticket",
    "plugin_files",
    "read_study",
    "study_of",
]


def read_study(folder: Path) -> StudyConfig:
    """Run a study's plugins and read its study.toml; names are checked, nothing heavy imported.

    Raises:
        PluginError: a plugin that fails.
        ConfigError: study.toml has faults.
    """
    from sat_optuna.attention import DEFAULT_SHARING
    from sat_optuna.backbones import BACKBONES
    from sat_optuna.backbones.heads import HEADS
    from sat_optuna.data import DATASETS
    from sat_optuna.tasks import METRICS, TASKS, as_metric, build_task

    path = folder / "study.toml"
    document = read_toml(path)
    load_plugins(plugin_files(folder))
    known: dict[str, Names] = {
        "backbones": BACKBONES,
        "heads": HEADS,
        "datasets": DATASETS,
        "metrics": METRICS,
        "modules": _Kinds(),
        "tasks": TASKS,
    }
    config = parse_config(document, source=str(path), known=known, default_sharing=DEFAULT_SHARING)
    try:
        task = build_task(config.task.name, class_weights=config.task.class_weights)
        as_metric(config.search.metric, task)
    except (DataError, UnknownName) as error:
        raise ConfigError(str(path), [f"[task], search.metric: {error}"]) from error
    digests = tuple(sha256_of(file) for file in plugin_files(folder))
    config = replace(config, plugins=replace(config.plugins, sha256=digests))
    return _with_weights(config, folder) if config.from_weights else config


def _with_weights(config: StudyConfig, folder: Path) -> StudyConfig:
    """Note what the file of trained weights holds, and let attention begin as the identity.

    Raises:
        ConfigError: there is no such file.
    """
    from sat_optuna.attention import starting_as_identity

    with suppress(SatOptunaError):  # a kind that cannot be loaded is a fault that `check` finds
        kinds = tuple(map(starting_as_identity, config.attention.kinds))
        config = replace(config, attention=replace(config.attention, kinds=kinds))
    if not config.network.weights:
        return config
    path = folder / Path(config.network.weights).expanduser()
    try:
        check_is_file(path)
        digest = sha256_of(path)
    except OSError as error:
        raise ConfigError(
            str(folder / "study.toml"),
            [
                f"network.weights is {config.network.weights!r}, and {path} cannot be read "
                f"({error.strerror or error}); put the file there"
            ],
        ) from error
    return replace(config, network=replace(config.network, sha256=digest))


def plugin_files(folder: Path) -> tuple[Path, ...]:
    """Return the Python files that a study's [plugins] lists; none is run.

    Raises:
        ConfigError: study.toml cannot be read.
        PluginError: a file lies outside of the study's folder.
    """
    files = tuple(folder / name for name in plugins_of(read_toml(folder / "study.toml")))
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise PluginError(
                f"plugin {file} lies outside of its study's folder, so that another study's or "
                "program's code would run; put the file beside study.toml"
            )
    return files


def given_ticket(folder: Path) -> Path | None:
    """Return the ticket that a study's [transfer] names; None where none is.

    Raises:
        ConfigError: study.toml is there and cannot be read.
    """
    path = folder / "study.toml"
    named = given_ticket_of(read_toml(path)) if path.exists() else ""
    return folder / Path(named).expanduser() if named else None


def study_of(path: Path) -> Path | None:
    """Return the study in whose tickets/ or exports/ a file lies; None where it lies elsewhere."""
    folder = path.resolve().parent.parent
    return folder if (folder / "study.toml").is_file() else None


def is_exported(path: Path) -> bool:
    """Return whether a file is a ticket with weights, by its name."""
    return path.suffix == SUFFIXES["safetensors"]


def open_ticket(path: Path) -> Ticket:
    """Read a ticket; where nothing registers what it names, run the plugins of its study.

    Plugins are code, so they are those of the study in whose tickets/ or exports/ the ticket
    lies, never what the ticket says; that they are run is said in a warning.

    Args:
        path: a ticket's JSON file, or what `export --to safetensors` wrote.

    Raises:
        TicketError: it cannot be read as a ticket.
        CheckpointError: it is an exported file that is cut.
        PluginError: a plugin that fails.
        UnknownName: nothing registers its backbone or one of its attention modules.
    """
    ticket = _read_ticket(path)
    folder = study_of(path)
    try:
        _check_known(ticket, path, folder)
    except UnknownName:
        files = plugin_files(folder) if folder else ()
        if not files:
            raise
        warnings.warn(
            f"running {', '.join(map(str, files))}, for the ticket is of a network that this "
            "study's plugins register",
            SatOptunaWarning,
            stacklevel=2,
        )
        load_plugins(files)
        _check_known(ticket, path, folder)
    return ticket


def tickets_beside(path: Path, ticket: Ticket) -> dict[str, Ticket]:
    """Return a retrained ticket, and the controls of its study in the same folder, by role.

    Empty where it is none that was retrained with controls; a file that is no ticket of this study
    is left out.

    Args:
        path: the ticket's JSON file.
        ticket: what was read of it.
    """
    if ticket.role != "ticket" or not any(score.split == "test" for score in ticket.scores):
        return {}
    found = {"ticket": ticket}
    for file in sorted(path.parent.glob("*.json")):
        with suppress(TicketError):
            other = Ticket.load(file)
            if other.role == file.stem != "ticket" and _origin(other) == _origin(ticket):
                found[other.role] = other
    return found if "plain" in found else {}


def _origin(ticket: Ticket) -> tuple[str | None, str, str]:
    return ticket.study_uuid, ticket.dataset_fingerprint, ticket.backbone


def _read_ticket(path: Path) -> Ticket:
    if is_exported(path):
        from sat_optuna.export.weights import read_ticket

        return read_ticket(path)
    if path.suffix in SUFFIXES.values():
        raise TicketError(
            f"{path} is a program, which holds no network that could be built; give the ticket's "
            "JSON file, or what `export --to safetensors` wrote"
        )
    return Ticket.load(path)


def _check_known(ticket: Ticket, path: Path, folder: Path | None) -> None:
    from sat_optuna.attention import ATTENTION, OWN
    from sat_optuna.backbones import BACKBONES

    try:
        BACKBONES.check(ticket.backbone)
        for spec in ticket.attention:
            if spec.kind != OWN:
                ATTENTION.check(spec.kind)
    except UnknownName as error:
        remedy = (
            "put the file back into the tickets/ folder of its study, whose study.toml names the "
            "plugin that registers it"
            if folder is None
            else f"name the plugin that registers it under [plugins] of {folder / 'study.toml'}"
        )
        raise UnknownName(f"{path}: {error}; correct the name, or {remedy}") from error


class _Kinds:
    """The kinds of attention that a study may name: the registered ones, and the network's own."""

    def __contains__(self, name: object) -> bool:
        from sat_optuna.attention import ATTENTION, OWN

        return name == OWN or name in ATTENTION

    def __iter__(self) -> Iterator[str]:
        from sat_optuna.attention import ATTENTION, OWN

        return iter((*ATTENTION, OWN))
