"""What a study's report says of networks that answer with maps; see `evidence.maps`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sat_optuna.errors import DataError
from sat_optuna.evidence.maps import MapExamples, MapResults, map_examples, trivial_rules
from sat_optuna.export.weights import load_weights
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    from sat_optuna.pipeline.outcome import Outcome
    from sat_optuna.scheme import Scheme

__all__ = ["map_results"]


def map_results(outcome: "Outcome", tickets: Mapping[str, Ticket]) -> MapResults:
    """Return trivial rules, and test images with the answers of ticket, plain and full.

    The networks are those of the first seed. Of data that cannot be read any more, or that are
    others than the networks were trained and tested on, there is neither: the rules would be held
    against scores on other images.

    Args:
        outcome: what was retrained, of a task with maps.
        tickets: by role, with their test scores.
    """
    parts, study = outcome.study.parts, outcome.study
    try:
        data, ticket = parts.data, tickets["ticket"]
        tested = ticket.images.get("test", len(data.test))
        same = (data.fingerprint, len(data.test)) == (ticket.dataset_fingerprint, tested)
        why = "" if same else f"the data {data.name!r} are not those of the retraining any more"
    except DataError as error:
        why = f"the data cannot be read ({error})"
    if why:
        return MapResults(
            lacking=f"Neither test images nor trivial rules are told, for {why}; bring them back, "
            f"move report.md away and run: sat-optuna report {study.argument}"
        )
    return MapResults(
        rules=trivial_rules(parts.data, parts.task, parts.metric),
        examples=_examples(outcome, tickets),
    )


def _examples(outcome: "Outcome", tickets: Mapping[str, Ticket]) -> MapExamples | None:
    """Return None where weights are gone, or are not what the retraining made."""
    parts, seed = outcome.study.parts, outcome.study.config.retrain.seeds[0]
    networks, test = {}, {}
    for label, ticket in _shown(tickets).items():
        weights = outcome.weights_of(ticket.scheme, seed)
        if weights is None:
            return None
        networks[label] = load_weights(ticket, weights)
        score = next(s for s in ticket.scores if s.split == "test" and s.seed == seed)
        test[label] = f"{score.measure.title} {score.measure.text(score.value)}"
    return map_examples(
        networks, parts.data, task=parts.task, metric=parts.metric, test=test, seed=seed
    )


def _shown(tickets: Mapping[str, Ticket]) -> dict[str, Ticket]:
    """Return ticket, plain and full, each network once, by all these roles of it."""
    roles: dict[Scheme, list[str]] = {}
    for role, ticket in tickets.items():
        if role.split("-")[0] in ("ticket", "plain", "full"):
            roles.setdefault(ticket.scheme, []).append(role)
    return {" = ".join(same): tickets[same[0]] for same in roles.values()}
