"""A study's database that cannot be opened: healthy data are not to be moved away."""

import pytest

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import StudyError
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study
from tests.read_only import read_only


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "mine" / "study.db"
    path.parent.mkdir()
    sampler = build_sampler("random", seed=0, batch=1)
    create_study(open_storage(path), "mine", config=StudyConfig(), sampler=sampler)
    return path


def test_a_read_only_disk_is_not_answered_with_move_it_away(db):
    before = db.read_bytes()
    with read_only(db.parent), pytest.raises(StudyError) as refused:
        open_storage(db)
    assert str(refused.value) == (
        f"cannot open {db}, for it or its folder is read-only and SQLite writes beside what it "
        "reads; copy the study to a disk that can be written, or make both writable"
    )
    assert db.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_no_broken_database(tmp_path):
    (tmp_path / "mine").mkdir()
    with read_only(tmp_path / "mine"), pytest.raises(StudyError) as refused:
        open_storage(tmp_path / "mine" / "study.db")
    assert "see to that and run the same command again" in str(refused.value)
    assert "move it away" not in str(refused.value)


def test_a_file_that_is_no_database_may_be_moved_away(db):
    db.write_bytes(b"not a database, by far" * 100)
    with pytest.raises(StudyError, match=r"not a database.*or move it away to begin the search"):
        open_storage(db)
