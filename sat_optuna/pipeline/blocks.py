"""What each kind does at each block of a study: from all schemes, or from a sample of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sat_optuna.config.config import decided
from sat_optuna.events import OnEvent
from sat_optuna.pipeline.done import Done
from sat_optuna.seeds import seed_for

if TYPE_CHECKING:
    from sat_optuna.evidence.enumeration import Enumeration
    from sat_optuna.evidence.report import Blocks
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.search.objective import SupernetObjective

__all__ = ["blocks_of", "current_enumeration", "enumeration_decided"]

_SAMPLE = 256  # schemes at least; their number is a multiple of K + 1


def enumeration_decided(study: "StudyFolder") -> dict[str, Any]:
    """Return what decides the scores of all schemes."""
    made = (study.records.get("pretrain") or Done({})).made
    return {**decided(study.config, "scores"), "weights": dict(made)}


def current_enumeration(study: "StudyFolder") -> Done | None:
    """Return the record of the scores of all schemes, if they are there and of this study."""
    table = study.folder / "enumeration.npz"
    files = {table.name: table}
    if study.records.is_current("enumeration", enumeration_decided(study), files):
        return study.records.get("enumeration")
    return None


def blocks_of(study: "StudyFolder", on_event: OnEvent) -> "Blocks | None":
    """Return the effects of a study whose schemes are scored in a supernet.

    They are of all schemes where these were scored, else of a sample that is scored now. Each
    choice is drawn equally often at each block, and the draw knows nothing of the search.

    Returns:
        None for a search that trains its schemes: its random control tells them.
    """
    if study.config.search.objective == "train":
        return None
    from sat_optuna.evidence.enumeration import Enumeration
    from sat_optuna.evidence.report import Blocks

    kinds = [spec.kind for spec in study.config.attention.kinds]
    weight = study.config.search.sparsity_weight
    start = "scratch" if study.config.retrain.start == "scratch" else "the given weights"
    if current_enumeration(study):
        table = study.folder / "enumeration.npz"
        scores = Enumeration.read(table, kinds=kinds, sparsity_weight=weight)
    else:
        scores = _sampled(study, on_event)
    drawn = f"{len(scores.schemes):,} random schemes that the search did not choose"
    over = " and the schemes (the residual)"
    if scores.is_complete:
        drawn, over = f"all {len(scores.schemes):,} schemes", ""
    where = "in the supernet, whose weights all schemes share"
    if study.config.search.objective == "folded":
        where = "as one trained network in which constants stand for the modules that are dropped"
    intervals = (
        f"Intervals are over the {scores.n:,} validation images (Student's t of each image's own "
        f"effect){over}; where nothing differs at all, Wilson's of none of these images."
        if scores.is_sum_over_images
        else "Intervals are over the schemes (Student's t of the residual), not over the "
        "validation images."
    )
    return Blocks(
        scores.effects(),
        f"Least squares on the choices of {drawn}, scored {where}: networks trained from {start} "
        f"may differ. {intervals}",
        len(scores.schemes),
    )


def _sampled(study: "StudyFolder", on_event: OnEvent) -> "Enumeration":
    """Score the sample, or all schemes where there are no more."""
    from sat_optuna.evidence.enumeration import Enumeration
    from sat_optuna.supernet.random_schemes import draw_scheme

    objective = cast("SupernetObjective", study.parts.objective)
    evaluator, kinds = objective.evaluator, len(objective.kinds)
    blocks, seed = sum(objective.stages), seed_for("blocks", study.config.seed)
    asked = max(_SAMPLE, 8 * blocks * kinds)
    # Of few more schemes than are asked for, many draws would be the same.
    if (kinds + 1) ** blocks <= 4 * asked:
        schemes = evaluator.all_schemes(limit=4 * asked)
    else:
        schemes = tuple(
            draw_scheme(
                objective.stages, kinds, connect=0.5, draws="balanced", seed=seed, step=step
            )
            for step in range(asked - asked % (kinds + 1))
        )
    units = evaluator.results(
        schemes, on_event=lambda event: on_event(replace(event, step="blocks"))
    )
    results = [result for unit in units for result in unit]
    return Enumeration(
        results,
        kinds=objective.kinds,
        sparsity_weight=objective.sparsity_weight,
        labels=evaluator.labels,
        classes=evaluator.classes,
        measure=evaluator.metric.measure,
    )
