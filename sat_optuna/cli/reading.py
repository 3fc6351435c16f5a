"""Reading a study.toml or a ticket, with the plugins it needs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sat_optuna.config import StudyConfig
from sat_optuna.files import sha256_of
from sat_optuna.plugins import load_plugins
from sat_optuna.study_toml import Names, parse_config, plugins_of, read_toml
from sat_optuna.ticket import Ticket

__all__ = ["open_ticket", "read_study"]


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
    config = parse_config(
        document, source=str(path), known=known, default_sharing=DEFAULT_SHARING
    )
    digests = tuple(sha256_of(folder / name) for name in config.plugins.modules)
    return replace(config, plugins=replace(config.plugins, sha256=digests))


def open_ticket(path: Path) -> Ticket:
    """Read a ticket, and run the plugins of the study in whose tickets/ it lies.

    Plugins are code, so they are those of the study.toml beside it, never what the ticket says.

    Raises:
        TicketError: it cannot be read as a ticket.
        PluginError: a plugin that fails.
    """
    ticket = Ticket.load(path)
    toml = path.resolve().parent.parent / "study.toml"
    if toml.is_file():
        load_plugins(toml.parent / name for name in plugins_of(read_toml(toml)))
    return ticket


class _Kinds:
    """The kinds of attention that a study may name: the registered ones, and the network's own."""

    def __contains__(self, name: object) -> bool:
        from sat_optuna.attention import ATTENTION, OWN

        return name == OWN or name in ATTENTION

    def __iter__(self) -> Iterator[str]:
        from sat_optuna.attention import ATTENTION, OWN

        return iter((*ATTENTION, OWN))
