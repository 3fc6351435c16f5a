"""Registries: what they say to a wrong name, and that listing names imports nothing."""

import subprocess
import sys

import pytest

from sat_optuna.errors import UnknownName
from sat_optuna.registry import Registry, nearest


@pytest.fixture
def registry():
    registry: Registry[object] = Registry("attention module")
    registry.add("sge", 3)
    registry.add("se", "fractions:Fraction")
    return registry


def test_a_thing_is_found_by_its_name(registry):
    assert registry.get("sge") == 3


def test_a_text_is_imported_when_first_asked_for(registry):
    from fractions import Fraction

    assert registry.get("se") is registry.get("se") is Fraction


def test_names_are_sorted(registry):
    assert registry.names() == ("se", "sge")


@pytest.mark.parametrize("ask", ["get", "check"])
def test_an_unknown_name_is_answered_with_the_nearest_and_all(registry, ask):
    with pytest.raises(UnknownName) as caught:
        getattr(registry, ask)("sgee")
    assert str(caught.value) == "no attention module 'sgee'; did you mean 'sge'? known: se, sge"


def test_a_name_like_no_other_is_answered_with_all(registry):
    with pytest.raises(UnknownName) as caught:
        registry.get("transformer")
    assert str(caught.value) == "no attention module 'transformer'; known: se, sge"


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="attention module 'se' is registered already; choose"):
        registry.add("se", 4)
    assert registry.get("sge") == 3


def test_a_name_that_is_removed_is_free(registry):
    registry.remove("sge")
    assert registry.names() == ("se",)
    registry.add("sge", 4)
    assert registry.get("sge") == 4
    with pytest.raises(UnknownName) as caught:
        registry.remove("dia")
    assert str(caught.value) == "no attention module 'dia' can be removed; give one of se, sge"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnist", "mnist5k"), ("SE", "se"), ("cifar-10", "CIFAR10"), ("fashion", None), ("", None)],
)
def test_nearest_ignores_case_and_keeps_silent_where_none_is_near(name, hint):
    expected = f"; did you mean {hint!r}?" if hint else ""
    assert nearest(name, (n for n in ("mnist5k", "se", "CIFAR10"))) == expected


@pytest.fixture
def families(registry):
    registry.add_family("pair:", lambda rest: (rest, rest), names=lambda: ["pair:b", "pair:a"])
    registry.add_family("number:", "builtins:float")
    return registry


def test_a_family_makes_its_members_when_asked_for(families):
    assert families.get("pair:x") == ("x", "x")
    assert families.get("number:2") == 2.0


def test_a_family_knows_its_prefix_and_lists_what_it_likes(families):
    assert families.names() == tuple(families) == ("se", "sge", "pair:a", "pair:b")
    assert families.single_names() == ("se", "sge")
    families.check("number:x")
    assert "number:x" in families
    for name in ("number:", "number", 3):
        assert name not in families


def test_a_wrong_name_is_answered_with_members_too(families):
    with pytest.raises(UnknownName) as caught:
        families.check("pairs:a")
    assert str(caught.value) == (
        "no attention module 'pairs:a'; did you mean 'pair:a'? known: se, sge, pair:a, pair:b"
    )


def test_a_prefix_is_taken_once(families):
    with pytest.raises(ValueError, match="attention module 'pair:' is registered already"):
        families.add_family("pair:", str)


def test_names_and_checks_import_nothing():
    program = (
        "import sys\n"
        "from sat_optuna.registry import Registry\n"
        "registry = Registry('network')\n"
        "registry.add('net', 'colorsys:rgb_to_hsv')\n"
        "registry.check('net')\n"
        "assert registry.names() == ('net',)\n"
        "assert 'colorsys' not in sys.modules\n"
        "assert not {'torch', 'numpy', 'optuna'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("optimizer", ("batch", "compile", "lr", "momentum", "schedule")),
        ("metric", ("batch", "objective", "sampler", "trials")),
        ("weights", ("blocks", "stem_stride", "width")),
        ("depth", ("blocks", "width")),
        ("xyz", ("se", "sge", "eca")),
        ("", ("se", "sge")),
    ],
)
def test_no_name_is_offered_where_none_is_near(name, known):
    assert nearest(name, known) == ""


@pytest.mark.parametrize(
    ("name", "meant", "known"),
    [
        ("trails", "trials", ("batch", "sampler", "trials")),  # two letters swapped
        ("WIDHT", "width", ("blocks", "width")),
        ("mnist", "mnist5k", ("fashion-mnist", "mnist5k", "stl10")),  # the beginning
        ("train", "retrain", ("run", "retrain", "search")),  # the end
        ("batchsize", "batch", ("batch", "lr")),
        ("resnet200", "resnet20", ("resnet18", "resnet20", "resnet50")),
        ("sf", "se", ("dia", "se")),
    ],
)
def test_the_name_that_was_meant_is_offered(name, meant, known):
    assert nearest(name, known) == f"; did you mean {meant!r}?"
