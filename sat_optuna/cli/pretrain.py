"""`sat-optuna pretrain`: train the supernet under random schemes."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.events import Event
from sat_optuna.pipeline.folder import Workspace
from sat_optuna.training.checkpoint import EpochRecord

__all__ = ["pretrain", "pretrain_step"]


def pretrain_step(workspace: Workspace, console: Console) -> None:
    """Train the supernet to its configured epochs, from where its checkpoint stands."""
    config, path = workspace.config, workspace.supernet_path
    done, total = workspace.pretrained_epochs(), workspace.config.pretrain.epochs
    if done >= total:
        console.result(f"pretrain: done already, {total} epochs in {path}")
        return
    from sat_optuna.training.loop import pretrain as train_supernet

    net = workspace.fresh_supernet()
    with console.progress("pretrain", total, done) as bar:

        def on_event(event: Event) -> None:
            if isinstance(event.made, EpochRecord):
                bar.advance(event.message)

        history = train_supernet(
            net,
            workspace.data,
            epochs=total,
            seed=config.seed,
            connect=config.pretrain.connect,
            draws=config.pretrain.draws,
            config=config.train,
            checkpoint=workspace.checkpoint(),
            on_event=on_event,
        )
    console.result(
        f"pretrain: {total} epochs, loss {history[-1].loss:.3f}; {path} written, "
        f"next: sat-optuna search {workspace.name}"
    )


@click.command(epilog="Example: sat-optuna pretrain mine; next: sat-optuna search mine")
@click.argument("study")
@click.pass_obj
def pretrain(console: Console, *, study: str) -> None:
    """Train the supernet under random schemes; continues where it was stopped."""
    workspace = Workspace.open(study)
    with workspace.locked():
        pretrain_step(workspace, console)
