"""The search space: one categorical parameter a block."""

from collections.abc import Sequence

import optuna

from sat_optuna.scheme import Scheme

__all__ = ["NETWORK_KEY", "WORKER_KEY", "suggest_scheme"]

# Study attribute that says what a scheme of this study is a scheme of.
NETWORK_KEY = "sat:network"
# Trial attribute that names the process at work on it.
WORKER_KEY = "sat:worker"


def suggest_scheme(trial: optuna.Trial, stages: Sequence[int], kinds: Sequence[str]) -> Scheme:
    """Ask the trial for one categorical parameter a block, `s1.b00`, `s1.b01`, ...

    Args:
        trial: its sampler decides.
        stages: blocks of each stage.
        kinds: names of the kinds of attention; a block's choices are "none" and these.
    """
    choices = ("none", *kinds)
    picked = [
        choices.index(str(trial.suggest_categorical(name, choices)))
        for name in Scheme.parameter_names(stages)
    ]
    return Scheme.of(picked, stages)
