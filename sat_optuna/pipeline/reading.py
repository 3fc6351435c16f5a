"""Reading a study.toml or a ticket, with the plugins it needs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sat_optuna.config.config import StudyConfig
from sat_optuna.config.plugins import load_plugins
from sat_optuna.config.reader import Names, parse_config, plugins_of, read_toml
from sat_optuna.errors import TicketError, UnknownName
from sat_optuna.export import SUFFIXES
from sat_optuna.files import sha256_of
from sat_optuna.ticket import Ticket

__all__ = ["is_exported", "open_ticket", "read_study", "study_of"]


def read_study(folder: Path) -> StudyConfig:
    """Run a study's plugins and read its study.toml; names are checked, nothing heavy imported.

    Raises:
        PluginError: a plugin that fails.
        ConfigError: study.toml has faults.
    """
    from sat_optuna.attention import DEFAULT_SHARING
    from sat_optuna.backbones import BACKBONES
    from sat_optuna.data import DATASETS

    path = folder / "study.toml"
    document = read_toml(path)
    load_plugins(folder / name for name in plugins_of(document))
    known: dict[str, Names] = {
        "backbones": BACKBONES,
        "datasets": DATASETS,
        "modules": _Kinds(),
    }
    config = parse_config(document, source=str(path), known=known, default_sharing=DEFAULT_SHARING)
    digests = tuple(sha256_of(folder / name) for name in config.plugins.modules)
    return replace(config, plugins=replace(config.plugins, sha256=digests))


def study_of(path: Path) -> Path | None:
    """Return the study in whose tickets/ or exports/ a file lies; None where it lies elsewhere."""
    folder = path.resolve().parent.parent
    return folder if (folder / "study.toml").is_file() else None


def is_exported(path: Path) -> bool:
    """Return whether a file is a ticket with weights, by its name."""
    return path.suffix == SUFFIXES["safetensors"]


def open_ticket(path: Path) -> Ticket:
    """Read a ticket, and run the plugins of the study in whose tickets/ or exports/ it lies.

    Plugins are code, so they are those of the study.toml beside it, never what the ticket says.

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
    if folder is not None:
        plugins = plugins_of(read_toml(folder / "study.toml"))
        load_plugins(folder / name for name in plugins)
    _check_known(ticket, path, folder)
    return ticket


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
