"""The program that compares two checkouts finds this one equal to itself, and sees each change."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests import same_bits

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of this checkout."""
    folder = tmp_path_factory.mktemp("same-bits")
    arguments = [str(ROOT), str(ROOT), "--only", "train", "--trials", "3", "--keep", str(folder)]
    assert same_bits.main(arguments) == 0
    return folder


def compared(before, after, capsys):
    """Return the exit code and, by kind of values, what the table says of them."""
    capsys.readouterr()
    code = same_bits.main([str(before), str(after), "--only", "train"])
    *rows, _ = capsys.readouterr().out.splitlines()
    return code, {row[9:27].strip(): row[28:] for row in rows}


def test_two_runs_of_one_checkout_are_equal_in_every_kind(runs, capsys):
    code, table = compared(runs / "before", runs / "after", capsys)
    assert code == 0
    assert list(table) == [
        "supernet",
        "trials",
        "enumeration",
        "retrainings",
        "retrained weights",
        "tickets",
        "exported weights",
        "pages and figures",
        "MLflow",
    ]
    assert all(words.startswith("equal, ") for words in table.values())


def last_bit(pattern):
    """Change the last bit of the first file that fits: in safetensors that of the last tensor."""

    def change(project):
        path = min(project.glob(pattern))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return change


def text(pattern, old, new):
    def change(project):
        path = min(project.glob(pattern))
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new, 1), encoding="utf-8")

    return change


def statement(pattern, sql):
    def change(project):
        (path,) = project.glob(pattern)
        with closing(sqlite3.connect(path)) as connection, connection:
            assert connection.execute(sql).rowcount == 1

    return change


def loss(project):
    """Change one score in its last bit."""
    (path,) = project.glob("studies/tiny/enumeration.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["loss"][0] = np.nextafter(arrays["loss"][0], np.inf)
    np.savez(path, **arrays)


STUDY_DB = "studies/tiny/study.db"
MLFLOW_DB = "mlruns/mlflow.db"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("supernet", last_bit("studies/tiny/work/**/supernet.safetensors")),
        ("trials", statement(STUDY_DB, "DELETE FROM trials WHERE trial_id = 6")),
        ("trials", statement(STUDY_DB, "UPDATE trial_values SET value = 0 WHERE trial_id = 1")),
        ("enumeration", loss),
        (
            "retrainings",
            text("studies/tiny/work/**/*.seed*.json", '"accuracy": ', '"accuracy": 1'),
        ),
        ("retrained weights", last_bit("studies/tiny/work/**/*.seed*.safetensors")),
        ("tickets", text("studies/tiny/tickets/plain.json", '"macs": ', '"macs": 1')),
        ("exported weights", last_bit("studies/tiny/exports/*.safetensors")),
        ("pages and figures", text("studies/tiny/report.md", "describes", "tests")),
        (
            "MLflow",
            statement(MLFLOW_DB, "UPDATE runs SET status = 'FAILED' WHERE name = 'search'"),
        ),
    ],
)
def test_a_change_is_seen_where_it_is_and_nowhere_else(kind, change, runs, tmp_path, capsys):
    shutil.copytree(runs / "after", tmp_path / "after")
    change(tmp_path / "after" / "train")
    code, table = compared(runs / "before", tmp_path / "after", capsys)
    assert code == 1
    assert [name for name, words in table.items() if "DIFFER" in words] == [kind]


def test_what_no_two_runs_share_may_differ(runs, tmp_path, capsys):
    shutil.copytree(runs / "after", tmp_path / "after")
    text("studies/tiny/tickets/plain.json", '"latency_ms": ', '"latency_ms": 1')(
        tmp_path / "after" / "train"
    )
    assert compared(runs / "before", tmp_path / "after", capsys)[0] == 0
