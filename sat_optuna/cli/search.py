"""`sat-optuna search`: let the study's sampler look for the ticket."""

from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import Console
from sat_optuna.pipeline.folder import Workspace
from sat_optuna.pipeline.mlflow_log import Tracker, is_logged, tracked
from sat_optuna.seeds import seed_for

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

__all__ = ["NO_MLFLOW", "TRIALS", "check_search", "search", "search_step"]

TRIALS = click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Total of finished trials of the study, in place of study.toml's search.trials.",
)
NO_MLFLOW = click.option(
    "--no-mlflow", is_flag=True, help="Log nothing to MLflow; a later run without it catches up."
)


def search_step(
    workspace: Workspace,
    console: Console,
    *,
    mlflow: bool,
    suffix: str = "",
    sampler: str | None = None,
    trials: int | None = None,
) -> bool:
    """Bring a study of this workspace to its total of finished trials.

    Args:
        workspace: whose objective and storage are used.
        console: shows progress.
        mlflow: whether each trial is logged.
        suffix: of the study's name; the search itself has none.
        sampler: replaces search.sampler, for controls.
        trials: replaces search.trials, for controls, which know no timeout.

    Returns:
        Whether the study has all its trials.
    """
    from sat_optuna.search.study import (
        build_pruner,
        build_sampler,
        create_study,
        finished_trials,
    )

    config, name = workspace.config, workspace.name + suffix
    total = trials or config.search.trials
    study = create_study(
        workspace.db,
        name,
        config=config,
        sampler=build_sampler(
            sampler or config.search.sampler,
            # Its own seed: a control that repeats the search's draws would be none.
            seed=seed_for(suffix, config.seed) % 2**32 if suffix else config.seed,
            batch=config.search.batch,
            **({} if suffix else _limits(workspace)),
        ),
        pruner=build_pruner(config.search.pruner),
    )
    done = len(finished_trials(study))
    title = f"search{suffix.replace('.', ' ')}"
    finished = done >= total
    if finished and (not mlflow or is_logged(workspace, study)):
        console.result(f"{title}: done already, {done} trials in {workspace.db}")
        return True
    with tracked(workspace, study, enabled=mlflow) as tracker:
        if finished:
            console.result(f"{title}: done already, {done} trials, now logged to MLflow")
            return True
        now = _run(workspace, console, study, total=total, title=title, tracker=tracker)
    left = total - done - now
    if left > 0:
        console.result(
            f"{title}: stopped by search.timeout with {left} trials to go; "
            f"the same command goes on: sat-optuna search {workspace.name}"
        )
        return False
    console.result(
        f"{title}: {now} trials now, {done + now} in all, in {workspace.db}; "
        f"next: sat-optuna retrain {workspace.name}"
    )
    return True


def check_search(workspace: Workspace) -> None:
    """Make sure, before anything is trained, that the search can be made and networks compiled.

    Raises:
        StudyError: no scheme keeps the limits.
        CompileError: train.compile, and torch.compile does not work here.
    """
    from sat_optuna.search.study import build_sampler

    config = workspace.config
    build_sampler(
        config.search.sampler,
        seed=config.seed,
        batch=config.search.batch,
        **_limits(workspace),
    )
    if config.train.compile:
        from sat_optuna.training.step import check_compiler

        check_compiler()


def _limits(workspace: Workspace) -> dict[str, Any]:
    """Return what the sampler has to keep to and may repeat, of those keys that are set."""
    search = workspace.config.search
    limits: dict[str, Any] = {"replicates": search.replicates} if search.replicates > 1 else {}
    if not (search.max_connections or search.max_params or search.max_macs):
        return limits
    from sat_optuna.cost.operations import CostModel
    from sat_optuna.search.space import cost_limit, scheme_space

    net = workspace.fresh_supernet()
    limits["search_space"] = scheme_space(net.stages, [spec.kind for spec in net.specs])
    if search.max_connections:
        limits["max_connections"] = search.max_connections
    costs = CostModel(net, workspace.data.shape)
    limits["budget"] = {}
    if search.max_params:
        params = costs.affine("params")
        limits["budget"]["params"] = cost_limit(params, net.stages, at_most=search.max_params)
    if search.max_macs:
        macs = costs.affine("macs")
        limits["budget"]["macs"] = cost_limit(macs, net.stages, at_most=search.max_macs)
    return limits


def _run(
    workspace: Workspace,
    console: Console,
    study: "optuna.Study",
    *,
    total: int,
    title: str,
    tracker: Tracker,
) -> int:
    from sat_optuna.search.objective import SupernetObjective, TrainObjective
    from sat_optuna.search.study import check_network, finished_trials, run_trials

    config = workspace.config
    objective: SupernetObjective | TrainObjective
    if config.search.objective == "train":
        pretrained = config.search.start == "supernet"
        objective = TrainObjective(
            workspace.trained_supernet() if pretrained else workspace.fresh_supernet(),
            workspace.data,
            epochs=config.search.epochs,
            seed=config.seed,
            sparsity_weight=config.search.sparsity_weight,
            config=config.train,
        )
    else:
        objective = workspace.supernet_objective()
    check_network(study, objective.network())
    done = finished_trials(study)
    best = max((t.value for t in done if t.value is not None), default=float("-inf"))
    with console.progress(title, total, len(done)) as bar:

        def on_trial(trial: "FrozenTrial") -> None:
            nonlocal best
            if trial.value is not None:
                best = max(best, trial.value)
            tracker(trial)
            bar.advance(f"best reward {best:.3f}")

        return run_trials(
            study,
            objective,
            trials=total,
            batch=3 if config.search.sampler == "paper" else config.search.batch,
            stages=objective.stages,
            kinds=objective.kinds,
            timeout=0.0 if study.study_name != workspace.name else config.search.timeout,
            on_batch=None if isinstance(objective, TrainObjective) else objective.score_ahead,
            on_trial=on_trial,
        )


@click.command(epilog="Example: sat-optuna search mine --trials 200; next: sat-optuna trials mine")
@click.argument("study")
@TRIALS
@NO_MLFLOW
@click.pass_obj
def search(console: Console, *, study: str, trials: int | None, no_mlflow: bool) -> None:
    """Search for the ticket; continues a study that exists, also one that was killed."""
    workspace = Workspace.open(study, trials=trials)
    with workspace.locked():
        search_step(workspace, console, mlflow=not no_mlflow)
