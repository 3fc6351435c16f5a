"""The tree of errors: the one that is drawn, their texts, and their way across processes."""

import inspect
import pickle
import re

import pytest

from sat_optuna import errors
from sat_optuna.errors import (
    ConfigError,
    DataError,
    SatOptunaError,
    UnknownName,
    errors_as,
    one_line,
)
from sat_optuna.tracking import TrackingError

TYPES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__ and issubclass(kind, Exception)
    if not issubclass(kind, Warning)
]


def drawn():
    rows = re.findall(r"^[├└]── (\w+) +\((\w+)\)", errors.__doc__ or "", re.MULTILINE)
    assert rows
    return dict(rows)


def test_the_tree_is_the_one_drawn():
    real = {kind.__name__: kind.__bases__ for kind in TYPES if kind is not SatOptunaError}
    assert {name: bases[1].__name__ for name, bases in real.items()} == drawn()
    assert all(bases[0] is SatOptunaError for bases in real.values())


def test_all_names_are_public():
    names = {kind.__name__ for kind in TYPES}
    assert set(errors.__all__) == names | {"SatOptunaWarning", "errors_as", "one_line", "readable"}


@pytest.mark.parametrize(
    "kind", [k for k in TYPES if k is not ConfigError], ids=lambda k: k.__name__
)
def test_text_is_the_message_as_given_here_and_in_another_process(kind):
    error = kind("no module 'sgee'; did you mean 'sge'?")
    assert (
        str(error)
        == str(pickle.loads(pickle.dumps(error)))
        == "no module 'sgee'; did you mean 'sge'?"
    )
    assert str(kind()) == ""


def test_an_unknown_name_is_a_key_error_without_quotes():
    with pytest.raises(KeyError) as caught:
        raise UnknownName("no backbone 'x'")
    assert str(caught.value) == "no backbone 'x'"


def test_errors_of_others_become_one_sentence_of_ours():
    with (
        pytest.raises(DataError) as caught,
        errors_as(DataError, "cannot read a.png", "fetch it again"),
    ):
        raise EOFError("cut off\nat byte 7")
    assert str(caught.value) == "cannot read a.png (EOFError: cut off); fetch it again"
    assert one_line(EOFError()) == "EOFError"


def test_errors_of_ours_pass_as_they_are():
    mine = UnknownName("no backbone 'x'")
    with (
        pytest.raises(UnknownName) as caught,
        errors_as(DataError, "cannot read a.png", "fetch it again"),
    ):
        raise mine
    assert caught.value is mine


def test_config_error_shows_one_fault_in_a_line_and_several_in_a_list():
    assert str(ConfigError("study.toml", ["seed is 'x'; write a whole number"])) == (
        "study.toml: seed is 'x'; write a whole number"
    )
    assert str(ConfigError("study.toml", ("one", "two"))) == "study.toml: 2 faults\n  one\n  two"


def test_config_error_crosses_process_borders_whole():
    error = ConfigError("study.toml", (fault for fault in ("one", "two")))
    again = pickle.loads(pickle.dumps(error))
    assert (again.source, again.faults, str(again)) == ("study.toml", ("one", "two"), str(error))


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:12/34@h/db", "postgresql://me:p@ss@h/db", "mysql://me:5432@h/db"],
)
def test_a_password_is_shown_nowhere(url):
    assert errors.readable(f"cannot reach {url} now").endswith("://h/db now")
    assert TrackingError(f"cannot open {url}").what.endswith("://h/db")
    assert errors.readable("http://h:5000/a and b@c.org") == "http://h:5000/a and b@c.org"
