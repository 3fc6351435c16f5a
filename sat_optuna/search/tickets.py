"""From a trial of a search to a ticket."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sat_optuna.config.objectives import metric_of
from sat_optuna.errors import StudyError
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.scheme import Scheme
from sat_optuna.search.front import chosen_of_front, objectives_of
from sat_optuna.search.space import NETWORK_KEY
from sat_optuna.search.study import CONFIG_KEY, UUID_KEY, build_sampler, finished_trials
from sat_optuna.ticket import ACCURACY, AttentionSpec, Measure, Score, Ticket
from sat_optuna.training.checkpoint import versions

__all__ = ["best_ticket", "find_ticket", "is_ticket", "measure_of", "ticket_of"]


def is_ticket(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Tell whether a trial of a study can be made a ticket: whether our objectives scored it."""
    return NETWORK_KEY in study.user_attrs and "scheme" in trial.user_attrs


def ticket_of(study: optuna.Study, trial: FrozenTrial) -> Ticket:
    """Return a trial of a search as a ticket, without retrained scores.

    >>> import torch, sat_optuna as sat
    >>> data = sat.Split.from_arrays(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    >>> net = sat.Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> study = optuna.create_study(direction="maximize")
    >>> study.optimize(sat.SupernetObjective(net, data, calibration=32), n_trials=2)
    >>> ticket = sat.ticket_of(study, study.trials[1])
    >>> ticket.scheme.stages, ticket.dataset, ticket.trial
    ((3, 3, 3), 'arrays', 1)

    Raises:
        StudyError: the trial is of no objective of this package.
    """
    if found := find_ticket(study, trial):
        return found
    raise StudyError(
        f"trial {trial.number} of study {study.study_name!r} has no scheme; give one that "
        "SupernetObjective or TrainObjective has scored"
    )


def find_ticket(study: optuna.Study, trial: FrozenTrial) -> Ticket | None:
    """Return a trial as a ticket, as `ticket_of`; None for a trial of no objective of ours."""
    noted = study.user_attrs  # read once: each time is a query
    if NETWORK_KEY not in noted or "scheme" not in trial.user_attrs:
        return None
    network, config = noted[NETWORK_KEY], noted.get(CONFIG_KEY, {})
    attention = tuple(AttentionSpec(**spec) for spec in network["attention"])
    return Ticket(
        role="ticket",
        scheme=Scheme.parse(trial.user_attrs["scheme"]),
        backbone=network["backbone"],
        backbone_settings=network["backbone_settings"],
        attention=attention,
        classes=network["classes"],
        input_shape=tuple(network["input_shape"]),
        dataset=network["dataset"],
        dataset_fingerprint=network["dataset_fingerprint"],
        seed=config.get("seed", network.get("seed", 0)),
        params=trial.user_attrs["params"],
        macs=trial.user_attrs["macs"],
        latency_ms=trial.user_attrs.get("latency_ms"),
        scores=_valid_score(trial, config, _measure(network)),
        study=study.study_name,
        study_uuid=noted.get(UUID_KEY),
        trial=trial.number,
        versions=versions(),
        config=config,
        weights=network.get("started_from"),
    )


def measure_of(study: optuna.Study) -> Measure:
    """Return what the schemes of a study are measured in."""
    return _measure(study.user_attrs.get(NETWORK_KEY, {}))


def _measure(network: Mapping[str, Any]) -> Measure:
    named = network.get("metric")
    return Measure(**named) if named else ACCURACY


def _valid_score(
    trial: FrozenTrial, config: Mapping[str, Any], measure: Measure
) -> tuple[Score, ...]:
    """What the search saw of the scheme: its metric on the validation part."""
    if measure.name not in trial.user_attrs or not config:
        return ()
    step = "search" if config["search"]["objective"] == "train" else "pretrain"
    value, epochs = trial.user_attrs[measure.name], config[step]["epochs"]
    seed = config["seed"]
    return (Score(split="valid", value=value, seed=seed, epochs=epochs, measure=measure),)


def best_ticket(study: optuna.Study) -> Ticket:
    """Return the ticket with the highest reward; of equals, the first found.

    Of a study of several objectives it is the cheapest ticket of the front that is as accurate as
    the best within one standard error: see `chosen_of_front`. The whole front is
    `[ticket_of(study, trial) for trial in study.best_trials]`.

    Where the search measured schemes more than once, it is the one that all its trials speak for:
    see `PolicyGradientSampler.recommend`.

    Raises:
        StudyError: no trial is complete, or the study has several objectives and none of ours.
    """
    if len(study.directions) > 1:
        if not metric_of(objectives_of(study)):
            raise StudyError(
                f"study {study.study_name!r} has {len(study.directions)} objectives and so no "
                "best trial; choose one of study.best_trials"
            )
        return ticket_of(study, chosen_of_front(study))
    sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
    complete = [t for t in finished_trials(study) if t.state is TrialState.COMPLETE]
    if not complete:
        raise StudyError(
            f"study {study.study_name!r} has no complete trial; "
            f"run: sat-optuna search {quote(study.study_name)}, and look at sat-optuna trials"
        )
    search = study.user_attrs.get(CONFIG_KEY, {}).get("search", {})
    if search.get("replicates", 1) > 1:
        seed = study.user_attrs[CONFIG_KEY]["seed"]
        sampler = build_sampler(search["sampler"], seed=seed, batch=search["batch"])
        if isinstance(sampler, PolicyGradientSampler):
            try:
                return ticket_of(study, sampler.recommend(study))
            except ValueError as error:
                raise StudyError(
                    f"study {study.study_name!r} has no best trial: {error}"
                ) from error
    best = max(complete, key=lambda t: (sign * (t.value or 0.0), -t.number))
    return ticket_of(study, best)
