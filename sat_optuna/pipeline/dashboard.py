"""What optuna-dashboard shows of a study: its note, graphs, notes of the best trials, files.

All of it is told by the study's database and its folder, without data, networks or plugins. It is
brought up to date at the end of search, retrain and report, and when the dashboard is opened.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from shlex import quote
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import TicketError
from sat_optuna.evidence.pages import markdown_table
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure, Ticket

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sat_optuna.evidence.effects import Effect
    from sat_optuna.evidence.graphs import Scored
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.search.objective import SupernetObjective

__all__ = ["ARTIFACTS", "note_references", "open_dashboard", "refresh"]

ARTIFACTS = "artifacts"  # folder in work/
# Study attribute: what plain and full reach and cost, scored as the trials were.
_REFERENCES_KEY = "sat:references"
_BEST = 5  # schemes in the note of a study
_NOTED = 20  # trials with a note: each one makes every reading of the study slower
_PARTS = 30  # of the trials, in the graph of connections
_FILES = ("ticket.png", "trials.csv")
_NEXT = "Next"
_COUNTS = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "latency, ms"}


def open_dashboard(study: "StudyFolder") -> None:
    """Make what the dashboard lacks of a study, where no other process is at work on it.

    Raises:
        StudyError: no search was run yet.
    """
    from filelock import FileLock, Timeout

    study.optuna_study()
    with suppress(Timeout), FileLock(study.work / "lock", timeout=0):
        refresh(study)


def note_references(opened: "optuna.Study", objective: "SupernetObjective") -> None:
    """Score plain and full as the trials of a study were, and note it, for what is drawn of it."""
    from sat_optuna.evidence.controls import full_roles
    from sat_optuna.tasks import MetricError

    if _REFERENCES_KEY in opened.user_attrs:
        return
    roles = ("plain", *full_roles(objective.kinds))
    schemes = {role: Scheme.uniform(objective.stages, kind) for kind, role in enumerate(roles)}
    name = objective.metric.name
    with suppress(MetricError):  # a scheme without a value is in no graph
        scored = objective.evaluator.score_many(schemes.values())
        noted = {
            role: {"scheme": str(s), name: scored[s].score(name), **objective.costs_of(s)}
            for role, s in schemes.items()
        }
        opened.set_user_attr(_REFERENCES_KEY, noted)


def refresh(study: "StudyFolder", effects: "Sequence[Effect]" = ()) -> None:
    """Write what optuna-dashboard shows of a study, where it is not there or has changed.

    Args:
        study: its lock is held.
        effects: of the blocks, where they are known now; else their graph stays as it is.
    """
    from sat_optuna.pipeline.outcome import RANDOM
    from sat_optuna.search.storage import writing
    from sat_optuna.search.tickets import is_ticket
    from sat_optuna.tracking.dashboard import save_file
    from sat_optuna.tracking.note import write_note

    opened = study.optuna_study()
    trials = opened.get_trials(deepcopy=False)
    if not any(is_ticket(opened, trial) for trial in trials):
        return  # there is nothing to be told yet
    shown = _Shown(study, opened, trials)
    with writing(study.name):
        write_note(opened, "This study", shown.sentence)
        if shown.best:
            write_note(opened, "Best schemes", shown.table)
            if table := shown.retrained:
                write_note(opened, "From scratch", table)
            shown.write_trial_notes()
            shown.save_graphs(effects)
        write_note(opened, _NEXT, f"`{shown.next}`", last=True)
        if study.has_search(RANDOM):
            said = f"Random schemes, scored as those of `{opened.study_name}`, its control."
            write_note(study.optuna_study(RANDOM), "This study", said)
        for name in _FILES:
            if (path := study.folder / "figures" / name).is_file():
                save_file(opened, path, folder=study.work / ARTIFACTS)


@dataclass
class _Shown:
    """A study as its dashboard shows it.

    Args:
        study: its folder.
        opened: the Optuna study of its search.
        trials: all of that.
    """

    study: "StudyFolder"
    opened: "optuna.Study"
    trials: "Sequence[FrozenTrial]"

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The stored configuration; study.toml would need the plugins."""
        from sat_optuna.search.study import CONFIG_KEY

        config: Mapping[str, Any] = self.opened.user_attrs.get(CONFIG_KEY, {})
        return config

    @cached_property
    def network(self) -> Mapping[str, Any]:
        """What the schemes are schemes of."""
        from sat_optuna.search.space import NETWORK_KEY

        network: Mapping[str, Any] = self.opened.user_attrs[NETWORK_KEY]
        return network

    @cached_property
    def kinds(self) -> list[str]:
        """Names of the kinds of attention."""
        return [spec["kind"] for spec in self.network["attention"]]

    @cached_property
    def measure(self) -> Measure:
        """What the schemes are measured in."""
        from sat_optuna.search.tickets import measure_of

        return measure_of(self.opened)

    @cached_property
    def best(self) -> "list[FrozenTrial]":
        """The complete trials, the best of each scheme, the best first; of a front, that alone."""
        from sat_optuna.search.front import front_trials, objectives_of

        whole = [t for t in self.trials if t.state.name == "COMPLETE" and self._is_scored(t)]
        if not whole or objectives_of(self.opened):
            return list(front_trials(self.opened)) if whole else []
        ranked = sorted(whole, key=lambda trial: (-(trial.values or [0.0])[0], trial.number))
        best: dict[str, FrozenTrial] = {}
        for trial in ranked:
            best.setdefault(trial.user_attrs["scheme"], trial)
        return list(best.values())

    def _is_scored(self, trial: "FrozenTrial") -> bool:
        return "scheme" in trial.user_attrs and self.measure.name in trial.user_attrs

    @cached_property
    def ticket(self) -> Ticket:
        """The retrained ticket, or where there is none yet that of the search."""
        from sat_optuna.search.study import UUID_KEY
        from sat_optuna.search.tickets import best_ticket

        with suppress(TicketError):
            ticket = Ticket.load(self.study.tickets / "ticket.json")
            if ticket.study_uuid == self.opened.user_attrs.get(UUID_KEY):
                return ticket
        return best_ticket(self.opened)

    @property
    def sentence(self) -> str:
        """What this is, and what limits it keeps."""
        search = self.config.get("search", {})
        stages = self._scheme(next(t for t in self.trials if "scheme" in t.user_attrs)).stages
        states = Counter(trial.state.name for trial in self.trials)
        ended = [f"{states[s]} {s.lower()}" for s in ("COMPLETE", "PRUNED", "FAIL") if states[s]]
        sampler = f", proposed by the sampler `{search['sampler']}`" if search else ""
        said = (
            f"In which of the {sum(stages)} residual blocks of {self.network['backbone']} "
            f"({len(stages)} stages) does {' or '.join(map(str.upper, self.kinds))} pay on "
            f"{self.network['dataset']}? {len(self.trials)} trials ({', '.join(ended)}){sampler}."
        )
        return f"{said}\n\n{limits}" if (limits := self._limits) else said

    @property
    def _limits(self) -> str:
        from sat_optuna.sampler.storage import SETTINGS_KEY, backend_of

        backend, study_id = backend_of(self.opened)
        settings = backend.get_study_system_attrs(study_id).get(SETTINGS_KEY, {})
        limits = {name: most for name, (most, *_) in settings.get("budget", {}).items()}
        if not limits:
            return ""
        listed = (f"at most {most:,.6g} {_COUNTS.get(n, n)}" for n, most in limits.items())
        return f"Limits: {'; '.join(listed)}. The sampler proposes no scheme that breaks one."

    @property
    def table(self) -> str:
        """The best schemes, drawn in text."""
        costs = [name for name in _COUNTS if name in self.best[0].user_attrs]
        heads = ["trial", "scheme", "", f"validation {self.measure.title}", "connections"]
        rows = []
        for trial in self.best[:_BEST]:
            attributes, scheme = trial.user_attrs, self._scheme(trial)
            rows.append(
                [
                    f"#{trial.number}",
                    f"`{scheme}`",
                    scheme.dots(len(self.kinds)),
                    self.measure.text(attributes[self.measure.name]),
                    str(scheme.connections),
                    *(_counted(attributes.get(name)) for name in costs),
                ]
            )
        drawn = markdown_table([*heads, *(_COUNTS[name] for name in costs)], rows)
        return drawn + (f"\n\n{marks}" if (marks := self._marks) else "")

    @property
    def retrained(self) -> str:
        """What the networks reach that were trained from scratch; empty where none was."""
        rows = []
        for ticket in sorted(self._tickets, key=lambda ticket: _place(ticket.role)):
            scores = [s.value for s in ticket.scores if s.split == "test"]
            if not scores:  # of a trial, by `sat-optuna ticket`
                continue
            rows.append(
                [
                    ticket.role,
                    f"`{ticket.scheme}`",
                    self.measure.text(fmean(scores)),
                    str(len(scores)),
                    *(_counted(getattr(ticket, name)) for name in _COUNTS),
                ]
            )
        heads = ["network", "scheme", f"test {self.measure.title}", "seeds", *_COUNTS.values()]
        return markdown_table(heads, rows) if rows else ""

    @property
    def _tickets(self) -> "Iterator[Ticket]":
        """The tickets in the folder that are of this study."""
        from sat_optuna.search.study import UUID_KEY

        for path in self.study.tickets.glob("*.json"):
            with suppress(TicketError):
                ticket = Ticket.load(path)
                if ticket.study_uuid == self.opened.user_attrs.get(UUID_KEY):
                    yield ticket

    @property
    def _marks(self) -> str:
        """What the signs of several kinds mean."""
        if len(self.kinds) == 1:
            return ""
        signs = (Scheme((k + 1,), (1,)).dots(len(self.kinds)) for k in range(len(self.kinds)))
        return ", ".join(f"{s} {k.upper()}" for s, k in zip(signs, self.kinds, strict=True))

    @property
    def next(self) -> str:
        """The command that goes on with the study."""
        folder, search = self.study.folder, self.config.get("search", {})
        ended = sum(trial.state.is_finished() for trial in self.trials)
        if not self.best:
            return f"sat-optuna search {self.study.argument}"
        waits = any(trial.state.name == "WAITING" for trial in self.trials)
        tried = {trial.user_attrs.get("scheme") for trial in self.trials}
        all_tried = len(tried) >= (len(self.kinds) + 1) ** len(self.ticket.scheme.choices)
        exhausted = search.get("sampler") == "brute-force" and all_tried
        step = "report"
        if waits or (ended < search.get("trials", 0) and not exhausted):
            step = "search"
        elif search.get("objective") == "folded":
            step = "enumerate"
        elif not self.ticket.scores or all(s.split != "test" for s in self.ticket.scores):
            step = "retrain"
        elif (folder / "report.md").is_file():
            return f"sat-optuna show {quote(str(self.study.tickets / 'ticket.json'))}"
        return f"sat-optuna {step} {self.study.argument}"

    def write_trial_notes(self) -> None:
        """Draw the scheme of the ticket's trial and of the best ones into their notes."""
        from sat_optuna.tracking.dashboard import write_trial_note

        number = self.ticket.trial
        own = [t for t in self.trials if t.number == number and self._is_scored(t)]
        for trial in {t.number: t for t in (*own, *self.best[:_NOTED])}.values():
            scheme = self._scheme(trial)
            rows = scheme.dots(len(self.kinds)).split(" ")
            drawn = "\n".join(f"stage {at}  {row}" for at, row in enumerate(rows, start=1))
            score = self.measure.text(trial.user_attrs[self.measure.name])
            said = (
                f"`{scheme}`: validation {self.measure.title} {score}, {scheme.connections} of "
                f"{len(scheme.choices)} blocks with attention"
            )
            text = "\n\n".join(filter(None, (said, f"```\n{drawn}\n```", self._marks)))
            write_trial_note(self.opened, trial, "Scheme", text)

    def save_graphs(self, effects: "Sequence[Effect]") -> None:
        """Save what can be drawn."""
        from sat_optuna.evidence.figures import shares_by_batch
        from sat_optuna.evidence.graphs import connections_graph, costs_graph, effects_graph
        from sat_optuna.tracking.dashboard import save_graph

        scheme = self.ticket.scheme
        tried = [self._scheme(t).choices for t in self.trials if "scheme" in t.user_attrs]
        shares, ends = shares_by_batch(tried, batches=min(_PARTS, max(1, len(tried) // 5)))
        name = self.config.get("search", {}).get("sampler", "unknown")
        save_graph(self.opened, "connections", connections_graph(shares, ends, scheme, name=name))
        if effects:
            figure = effects_graph(effects, scheme, kinds=self.kinds, measure=self.measure)
            save_graph(self.opened, "blocks", figure)
        whole = [t for t in self.trials if t.state.name == "COMPLETE" and self._is_scored(t)]
        cost = "latency_ms" if all("latency_ms" in t.user_attrs for t in whole) else "params"
        figure = costs_graph(
            [self._scored(t.user_attrs, cost)._replace(trial=t.number) for t in whole],
            self._references(whole, cost),
            cost=_COUNTS[cost],
            measure=self.measure,
        )
        save_graph(self.opened, "cost", figure)

    def _scored(self, attributes: Mapping[str, Any], cost: str) -> "Scored":
        from sat_optuna.evidence.graphs import Scored

        return Scored(attributes["scheme"], attributes[self.measure.name], attributes[cost])

    def _references(self, whole: "Sequence[FrozenTrial]", cost: str) -> "dict[str, Scored]":
        """Return plain, full and the ticket, of those that the search or its end has scored."""
        from sat_optuna.evidence.controls import full_roles

        stages = self.ticket.scheme.stages
        roles = {"ticket": self.ticket.scheme, "plain": Scheme.uniform(stages, 0)}
        roles |= {
            role: Scheme.uniform(stages, kind)
            for kind, role in enumerate(full_roles(self.kinds), start=1)
        }
        scored = {trial.user_attrs["scheme"]: trial.user_attrs for trial in whole}
        noted = self.opened.user_attrs.get(_REFERENCES_KEY, {})
        known = {role: scored.get(str(s), noted.get(role, {})) for role, s in roles.items()}
        return {role: self._scored(of, cost) for role, of in known.items() if cost in of}

    def _scheme(self, trial: "FrozenTrial") -> Scheme:
        return Scheme.parse(trial.user_attrs["scheme"])


def _place(role: str) -> tuple[int, str]:
    """Return where a network stands among those that were retrained: the ticket first."""
    known = ("ticket", "plain", "full", "constant")
    begins = role.split("-")[0]
    return (known.index(begins) if begins in known else len(known)), role


def _counted(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
