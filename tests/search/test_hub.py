"""A sampler of OptunaHub's registry, from optunahub's own cache: no test reaches GitHub."""

import sys
import textwrap

import optuna
import pytest

from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.search.study import build_sampler

SPACE = {"s1.b00": ("none", "se"), "s1.b01": ("none", "se")}

CLIMB = """
import numpy as np, optuna

class Climb(optuna.samplers.BaseSampler):
    def __init__(self, search_space, *, step: int = 1, seed=None):
        self.space, self.step, self.rng = search_space, step, np.random.default_rng(seed)
    def infer_relative_search_space(self, study, trial):
        return self.space
    def sample_relative(self, study, trial, search_space):
        return {n: str(self.rng.choice(d.choices)) for n, d in search_space.items()}
    def sample_independent(self, study, trial, name, distribution):
        raise AssertionError("all parameters are in the space")

__all__ = ["Climb"]
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a package where optunahub keeps what it has downloaded."""
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(tmp_path / "cache"))

    def add(name, code):
        registry = "cache/github.com/optuna/optunahub-registry/main/package/samplers"
        folder = tmp_path / registry / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(textwrap.dedent(code))

    return add


def build(name="climb", **settings):
    return build_sampler(f"optunahub:{name}", seed=3, batch=1, settings=settings, space=SPACE)


def test_a_package_is_loaded_seeded_and_given_settings_and_space(hub):
    hub("climb", CLIMB)
    proposals, samplers = [], []
    for _ in range(2):
        with pytest.warns(SatOptunaWarning, match="stopped and goes on may propose other schemes"):
            samplers.append(build(step=2))
        study = optuna.create_study(direction="maximize", sampler=samplers[-1])
        asked = [study.ask() for _ in range(6)]
        proposals.append(
            [[trial.suggest_categorical(n, c) for n, c in SPACE.items()] for trial in asked]
        )
    assert proposals[0] == proposals[1]
    assert len({tuple(proposal) for proposal in proposals[0]}) > 1
    named = {"algorithm": "optunahub/climb", "version": 1, "seed": 3}
    assert samplers[0].settings() == {**named, "settings": {"step": 2}}


@pytest.mark.parametrize(
    ("name", "code", "settings", "words"),
    [
        ("climb", CLIMB, {"stpe": 2}, "'stpe', .* 'optunahub:climb' .* mean 'step'"),
        ("climb", CLIMB, {"step": "2"}, "step = '2' .* type int"),
        ("empty", "", {}, "package 'optunahub:empty' holds none where one sampler is needed"),
        ("two", CLIMB + "class Other(Climb): pass\n__all__ += ['Other']", {}, "Climb, Other wh"),
        ("needs", "import no_such_thing", {}, "needs the package 'no_such_thing'; run: pip inst"),
        ("broken", "raise OSError('a\\nb')", {}, r"'optunahub:broken' cannot be loaded \(b\)"),
        ("../climb", "", {}, "is 'optunahub:../climb'; write the name of a package"),
    ],
)
def test_what_is_no_such_sampler_is_one_sentence(hub, name, code, settings, words):
    if "/" not in name:
        hub(name, code)
    with pytest.raises(StudyError, match=words):
        build(name, **settings)


def test_a_registry_that_cannot_be_reached_is_one_sentence(hub, monkeypatch):
    # Git is told of a proxy where nobody listens, so that nothing leaves this machine.
    for variable in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(
        StudyError, match=r"'optunahub:nowhere' cannot be loaded \(.*unable to access.*GitHub can"
    ):
        build("nowhere")


def test_without_optunahub_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(StudyError, match=r"needs optunahub, .* run: pip install optunahub"):
        build()
