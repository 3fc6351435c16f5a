"""Choose which of twelve blocks carry attention, within a limit of parameters, by noisy scores.

Run it where optuna, optunahub, numpy and scipy are installed: `python example.py`.
"""

if __name__ == "__main__":
    import numpy as np
    import optuna
    import optunahub

    module = optunahub.load_module("samplers/policy_gradient")
    space = {f"block{i:02}": ("none", "se", "cbam") for i in range(12)}
    limit = module.CostLimit(at_most=600.0, costs=dict.fromkeys(space, (0.0, 64.0, 98.0)))
    gains = np.linspace(-1.0, 1.0, 12)  # later blocks gain from attention, earlier ones lose

    def objective(trial: optuna.Trial) -> float:
        """Return a noisy score; "cbam" is worth 1.2 times what "se" is worth."""
        chosen = [trial.suggest_categorical(name, choices) for name, choices in space.items()]
        noise = np.random.default_rng(trial.number).normal(scale=0.3)
        return float(gains @ [{"none": 0.0, "se": 1.0, "cbam": 1.2}[c] for c in chosen] + noise)

    sampler = module.PolicyGradientSampler(
        seed=0, search_space=space, budget={"parameters": limit}, replicates=3
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=100)
    best = sampler.recommend(study)
    print(f"trial {best.number} is recommended: {best.params}")  # noqa: T201  a program's output
