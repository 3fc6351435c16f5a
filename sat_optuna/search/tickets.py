"""From a trial of a search to a ticket."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sat_optuna.errors import StudyError
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import NETWORK_KEY
from sat_optuna.search.study import CONFIG_KEY, UUID_KEY, build_sampler, finished_trials
from sat_optuna.ticket import AttentionSpec, Score, Ticket
from sat_optuna.training.checkpoint import versions

__all__ = ["best_ticket", "is_ticket", "ticket_of"]


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
    if NETWORK_KEY not in study.user_attrs or "scheme" not in trial.user_attrs:
        raise StudyError(
            f"trial {trial.number} of study {study.study_name!r} has no scheme; give one that "
            "SupernetObjective or TrainObjective has scored"
        )
    network = study.user_attrs[NETWORK_KEY]
    config = study.user_attrs.get(CONFIG_KEY, {})
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
        scores=_valid_score(trial, config),
        study=study.study_name,
        study_uuid=study.user_attrs.get(UUID_KEY),
        trial=trial.number,
        versions=versions(),
        config=config,
        weights=network.get("started_from"),
    )


def _valid_score(trial: FrozenTrial, config: Mapping[str, Any]) -> tuple[Score, ...]:
    """What the search saw of the scheme: accuracy on the validation part."""
    if "accuracy" not in trial.user_attrs or not config:
        return ()
    step = "search" if config["search"]["objective"] == "train" else "pretrain"
    accuracy, epochs = trial.user_attrs["accuracy"], config[step]["epochs"]
    return (Score(split="valid", value=accuracy, seed=config["seed"], epochs=epochs),)


def best_ticket(study: optuna.Study) -> Ticket:
    """Return the ticket with the highest reward; of equals, the first found.

    Where the search measured schemes more than once, it is the one that all its trials speak for:
    see `PolicyGradientSampler.recommend`.

    Raises:
        StudyError: no trial is complete, or the study has several objectives.
    """
    if len(study.directions) > 1:
        raise StudyError(
            f"study {study.study_name!r} has {len(study.directions)} objectives and so no best "
            "trial; choose one of study.best_trials"
        )
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
