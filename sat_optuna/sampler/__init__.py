"""A policy-gradient sampler for Optuna; the folder is an OptunaHub package as it stands.

It needs numpy, scipy, optuna and the standard library alone.
"""

from .sampler import PolicyGradientSampler
from .settings import CostLimit


__all__ = ["CostLimit", "PolicyGradientSampler"]
