"""`sat-optuna bench`: the benchmarks that a user can run."""

import click

from sat_optuna.cli.bench_evaluation import evaluation
from sat_optuna.cli.bench_export import export
from sat_optuna.cli.bench_inference import inference
from sat_optuna.cli.bench_training import training

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure this machine; ratios within one run."""


bench.add_command(evaluation)
bench.add_command(export)
bench.add_command(inference)
bench.add_command(training)
