"""The policy-gradient sampler; the folder needs numpy, scipy and optuna alone."""
