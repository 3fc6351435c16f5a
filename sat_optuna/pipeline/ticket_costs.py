"""What a ticket costs beside the network without attention and the one with it everywhere."""

import statistics
from typing import Any

import torch

from sat_optuna.cost.operations import CostModel
from sat_optuna.cost.timing import increment, interval_fields, network_ms, share_of_increment
from sat_optuna.errors import TicketError, errors_as
from sat_optuna.events import OnEvent, ignore
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise, supernet_of
from sat_optuna.ticket import Ticket
from sat_optuna.training.precision import pick_device

__all__ = ["TicketCosts"]

_COUNTED = ("params", "macs", "elementwise")


class TicketCosts:
    """Costs of a ticket, of plain and of full, which has the first kind in every block.

    Args:
        ticket: its network is built with fresh weights.

    Raises:
        TicketError: the network cannot be built here.
    """

    def __init__(self, ticket: Ticket) -> None:
        remedy = "correct its backbone_settings"
        with errors_as(TicketError, "the ticket's network cannot be built here", remedy):
            self._supernet = supernet_of(ticket, seed=ticket.seed).to(pick_device())
        self._shape, stages = ticket.input_shape, ticket.scheme.stages
        self._schemes = {
            "plain": Scheme.uniform(stages, 0),
            "ticket": ticket.scheme,
            "full": Scheme.uniform(stages, 1),
        }

    def counts(self) -> dict[str, dict[str, float | None]]:
        """Return parameters, multiply-adds and element-wise operations, exactly.

        Returns:
            By what is counted: the counts of plain, ticket and full, the increments over plain in
            per cent, and the ticket's share of full's increment (None where full has none).
        """
        remedy = "correct the ticket's input_shape"
        with errors_as(TicketError, f"images of {self._shape} cannot be run here", remedy):
            model = CostModel(self._supernet, self._shape)
            costs = {role: model.cost(scheme) for role, scheme in self._schemes.items()}
        counts = {}
        for what in _COUNTED:
            plain, found, full = (getattr(cost, what) for cost in costs.values())
            counts[what] = {
                "plain": plain,
                "ticket": found,
                "full": full,
                "ticket_increment_percent": 100 * (found - plain) / plain,
                "full_increment_percent": 100 * (full - plain) / plain,
                "share_of_full": (found - plain) / (full - plain) if full > plain else None,
            }
        return counts

    def fulls(self) -> dict[str, dict[str, int]]:
        """Return parameters, multiply-adds and element-wise operations of a full of each kind.

        Returns:
            By the kind that every block carries: the counts.
        """
        model, stages = CostModel(self._supernet, self._shape), self._schemes["full"].stages
        costs = {
            spec.kind: model.cost(Scheme.uniform(stages, choice))
            for choice, spec in enumerate(self._supernet.specs, start=1)
        }
        return {
            kind: {what: getattr(cost, what) for what in _COUNTED} for kind, cost in costs.items()
        }

    def latency(self, *, batch: int, rounds: int, on_event: OnEvent = ignore) -> dict[str, Any]:
        """Time the three networks in turns; two that have the same scheme are timed once.

        Args:
            batch: images a pass.
            rounds: passes of each network.
            on_event: told of each round.

        Returns:
            The median milliseconds of each, and the increments with their 95 % intervals.
        """
        nets = {str(s): materialise(self._supernet, s) for s in self._schemes.values()}
        passed = network_ms(nets, self._shape, batch=batch, rounds=rounds, on_event=on_event)
        times = {role: passed[str(scheme)] for role, scheme in self._schemes.items()}
        plain, found, full = times["plain"], times["ticket"], times["full"]
        return {
            **{f"{role}_ms": statistics.median(values) for role, values in times.items()},
            **interval_fields("ticket_increment_percent", increment(found, plain), scale=100),
            **interval_fields("full_increment_percent", increment(full, plain), scale=100),
            **interval_fields("share_of_full", share_of_increment(found, full, plain)),
            "batch": batch,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "device": pick_device().type,
        }
