"""`sat-optuna bench inference` as a user runs it."""

import csv
import io
import json

import pytest
import torch
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as group

TINY = ("--backbone", "resnet20", "--resolution", "16", "--batch", "1", "--rounds", "6")
SCHEME = "100-010-001"


def bench(*arguments, code=0):
    done = CliRunner().invoke(
        group, ["bench", "inference", *arguments], auto_envvar_prefix="SAT_OPTUNA"
    )
    assert done.exit_code == code, done.output
    return done


def error(*arguments, code=1):
    done = bench(*arguments, code=code)
    assert "Traceback" not in done.output
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def printed():
    """stdout of each format, all of the same two modules."""
    given = (*TINY, "--modules", "se,dia", "--scheme", SCHEME, "--no-cheapest")
    return {
        form: bench(*given, *options).stdout
        for form, options in (
            ("table", ()),
            ("json", ("--json",)),
            ("csv", ("--format", "csv")),
        )
    }


NETWORKS = ["plain", "full", "share-full", "given", "share-full", "given"]


def test_a_table_with_a_line_a_network(printed):
    head, *lines = printed["table"].splitlines()
    assert " ".join(head.split()).startswith("module network scheme batch resolution threads ms")
    for column in ("increment %", "share of full", "p cheaper than share-full", "note"):
        assert column in head
    assert [line.split()[1] for line in lines] == NETWORKS
    assert all(SCHEME in line for line in lines if "given" in line)


def test_json_is_one_document(printed):
    document = json.loads(printed["json"])
    assert [row["network"] for row in document["rows"]] == NETWORKS
    assert (document["batch"], document["resolution"], document["rounds"]) == (1, 16, 6)
    assert document["latency_models"] == []
    assert len(document["tests"]) == 2


def test_csv_has_every_column(printed):
    rows = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert [row["network"] for row in rows] == NETWORKS
    assert float(rows[1]["increment_percent_low"]) <= float(rows[1]["increment_percent"])
    assert rows[0]["module"] == ""


def test_the_cheapest_scheme_the_latency_model_and_the_file(tmp_path):
    out = tmp_path / "folder" / "mine.json"
    done = bench(*TINY, "--modules", "ie", "--scheme", SCHEME, "--threads", "1", "--out", str(out))
    assert torch.get_num_threads() == 1
    assert "latency model of ie: 32 schemes in 9 rounds; median error on 8 other" in done.stdout
    assert f"{out} written" in done.stderr
    document = json.loads(out.read_text())
    assert document["rows"][-1]["network"] == "cheapest"
    assert document["rows"][-1]["scheme"].count("1") == 3
    (model,) = document["latency_models"]
    assert len(model["increments_ms"]["ie"]) == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--modules", "se,sgee"), "no attention module 'sgee'; did you mean 'sge'?"),
        (("--modules", ","), "no module given; name at least one of"),
        (("--backbone", "resnet5O"), "no backbone 'resnet5O'; did you mean 'resnet5"),
        (("--scheme", "11-11"), "scheme '11-11' has stages (2, 2), not (3, 3, 3)"),
        (("--rounds", "5"), "5 rounds given; give at least 6"),
        (("--modules", "spa", "--resolution", "4"), "spa needs 4; give larger images"),
    ],
)
def test_bad_input_is_one_sentence(options, words):
    message = error(*TINY, *options)
    assert words in message
    assert len(message.strip().splitlines()) == 1


def test_numbers_out_of_range_are_usage_errors():
    for option in ("--batch", "--resolution", "--rounds", "--threads"):
        assert "not in the range" in error(option, "0", code=2)
