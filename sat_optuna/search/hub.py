"""A sampler of OptunaHub's registry, by its name; loaded when it is asked for."""

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.sampler.storage import StoredSettings, claim_study, failing_if_new
from sat_optuna.search.settings import check_settings
from sat_optuna.ticket import Setting

__all__ = ["HubSampler"]


class HubSampler(BaseSampler):
    """A sampler of the registry, which may keep what it learnt in its process.

    Args:
        name: of its package under `samplers/` of the registry, for example "catcmawm". The
            package is downloaded at its first use and kept in optunahub's cache
            (OPTUNAHUB_CACHE_HOME); its code is then run.
        seed: handed to it where it takes one.
        settings: further arguments, by name.
        space: the parameters and their choices, handed to it where it demands them.

    Raises:
        StudyError: optunahub is not installed, the package cannot be had, or it takes other
            settings.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        settings: Mapping[str, Setting],
        space: Mapping[str, Sequence[str]],
    ) -> None:
        self._name, self._seed, self._settings = name, seed, dict(settings)
        found = _class_of(name)
        check_settings(f"optunahub:{name}", found, settings)
        parameters = inspect.signature(found).parameters
        given: dict[str, Any] = dict(settings)
        if "seed" in parameters:
            given["seed"] = seed
        asked = parameters.get("search_space")
        if asked is not None and asked.default is inspect.Parameter.empty:
            given["search_space"] = {n: CategoricalDistribution(c) for n, c in space.items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._inner: BaseSampler = found(**given)
        except (TypeError, ValueError) as error:
            raise StudyError(
                f"sampler 'optunahub:{name}' cannot be made: {error}; correct "
                "search.sampler_settings, or choose another"
            ) from error
        seeded = "" if "seed" in parameters else ", and it takes no seed"
        warnings.warn(
            f"sampler 'optunahub:{name}' may keep what it learnt in its process{seeded}: a search "
            "that is stopped and goes on may propose other schemes than an unbroken one",
            SatOptunaWarning,
            stacklevel=2,
        )

    def settings(self) -> StoredSettings:
        """Return all that is known of what proposals depend on."""
        named = {"algorithm": f"optunahub/{self._name}", "version": 1, "seed": self._seed}
        return {**named, **({"settings": self._settings} if self._settings else {})}

    @override
    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    @override
    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Hold the study to these settings before its trial begins."""
        with failing_if_new(study, trial):
            claim_study(study, self.settings())
            self._inner.before_trial(study, trial)

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    @override
    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)


def _class_of(name: str) -> type[BaseSampler]:
    """Return the sampler class of a package.

    Raises:
        StudyError: it cannot be had, or holds no sampler or several.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise StudyError(
            f"search.sampler is 'optunahub:{name}'; write the name of a package under samplers/ "
            "of the registry, such as 'optunahub:catcmawm'"
        )
    try:
        import optunahub
    except ImportError as error:
        raise StudyError(
            f"sampler 'optunahub:{name}' needs optunahub, which cannot be used here ({error}); "
            "run: pip install optunahub"
        ) from error
    try:
        module = optunahub.load_module(f"samplers/{name}")
    except ModuleNotFoundError as error:
        raise StudyError(
            f"sampler 'optunahub:{name}' needs the package {error.name!r}; run: pip install "
            f"{error.name}"
        ) from error
    except Exception as error:  # git's, GitHub's and the package's own errors are of any kind
        *_, reason = (
            type(error).__name__,
            *str(error).strip().splitlines(),
        )  # git's own word comes last
        raise StudyError(
            f"sampler 'optunahub:{name}' cannot be loaded ({reason}); look whether the registry "
            "has it (https://hub.optuna.org/samplers) and whether GitHub can be reached from here"
        ) from error
    named = [getattr(module, public, None) for public in getattr(module, "__all__", dir(module))]
    classes = [item for item in named if isinstance(item, type) and issubclass(item, BaseSampler)]
    own = [item for item in dict.fromkeys(classes) if not item.__module__.startswith("optuna.")]
    if len(own) != 1:
        held = ", ".join(item.__name__ for item in own) or "none"
        raise StudyError(
            f"package 'optunahub:{name}' holds {held} where one sampler is needed; choose another"
        )
    return own[0]
