"""Searching connection schemes: the policy, its Optuna sampler, the objectives, the study."""

__all__: list[str] = []
