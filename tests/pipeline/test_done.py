"""The records of what is done: what is current, what is refused, and in which words."""

import json

import pytest

from sat_optuna.errors import StudyError
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done, Records


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "done", study="mine")


def again(records):
    """The same records as another process reads them."""
    return Records(records._folder, study="mine")


def test_a_record_is_read_as_it_was_written(records):
    record = Done({"seed": 3, "network.blocks": (2, 2)}, {"weights": "ab"}, finished=True)
    records.write("pretrain", record)
    assert again(records).get("pretrain") == Done(
        {"seed": 3, "network.blocks": [2, 2]}, {"weights": "ab"}, finished=True
    )
    assert again(records).get("search") is None


def test_a_step_is_current_while_its_decisions_and_its_bytes_are_the_same(records, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    decided, files = {"epochs": 2, "blocks": (1, 2)}, {"weights": path}
    assert not records.is_current("pretrain", decided, files)
    records.write("pretrain", Done(decided, {"weights": sha256_of(path)}))
    assert not records.is_current("pretrain", decided, files)  # not finished
    records.write("pretrain", Done(decided, {"weights": sha256_of(path)}, finished=True))
    assert again(records).is_current("pretrain", decided, files)
    assert not records.is_current("pretrain", {"epochs": 3}, files)
    assert not records.is_current("pretrain", decided, {**files, "more": path})
    path.write_bytes(b"abd")
    assert not records.is_current("pretrain", decided, files)
    path.unlink()
    assert not records.is_current("pretrain", decided, files)


def test_what_is_there_without_a_record_is_never_continued(records):
    with pytest.raises(
        StudyError, match=r"^x\.db is there and no record of what decided it.*'mine'"
    ):
        records.held("search", {}, there="x.db")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"decided": null}',
        '{"decided": {}, "made": null}',
        '{"made": {}}',
        '{"decided": {}, "more": 1}',
    ],
)
def test_a_broken_record_counts_as_none(records, text):
    records.write("search", Done({}))
    path = records._folder / "search.json"
    path.write_text(text)
    with pytest.raises(StudyError, match="no record of what decided it"):
        again(records).held("search", {}, there="x.db")


def test_other_decisions_are_refused_with_the_difference(records):
    records.write("search", Done({"seed": 3, "search.batch": 4}))
    assert records.held("search", {"seed": 3, "search.batch": 4}, there="x.db").decided
    with pytest.raises(StudyError) as refused:
        records.held("search", {"seed": 3}, there="x.db")
    assert str(refused.value) == (
        "x.db was made with another configuration: search.batch: 4 is stored, 8 is given; restore "
        "that to continue it, or make a new study (only search.trials, search.timeout and "
        "[retrain] may change)"
    )


def test_what_a_step_makes_is_added_piece_by_piece(records):
    records.add("networks", {"a": "1"})
    again(records).add("networks", {"b": "2"})
    record = again(records).get("networks")
    assert record is not None
    assert record.made == {"a": "1", "b": "2"}
    document = json.loads((records._folder / "networks.json").read_text())
    assert set(document) == {"decided", "made", "finished"}
