"""Files are there whole or not at all; disks that are full are real ones."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from sat_optuna.errors import WriteError
from sat_optuna.files import check_writable, sha256_of, write_atomically, write_text
from tests.full_disk import room_for


class Stop(Exception):  # noqa: N818
    pass


@pytest.fixture
def path(tmp_path):
    """A file that is there already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def test_write_text_makes_folders_and_leaves_the_file_alone_in_them(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    assert write_text(path, "Grüße\n") == path
    assert path.read_bytes() == "Grüße\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_is_replaced(path):
    write_text(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt, ValueError])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(path, kind):
    def write(temporary):
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise kind

    with pytest.raises(kind):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_loses_nothing(path):
    with pytest.raises(WriteError) as caught:
        write_atomically(path, lambda _: Path("/dev/full").write_text("new"))
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; what was there is untouched, so make room "
        "or choose another folder and run the same command again"
    )
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_outgrows_what_is_left_loses_nothing(path):
    with room_for(1000):
        write_text(path, "fits")
        with pytest.raises(WriteError, match=f"cannot write {path}: File too large; what was"):
            write_text(path, "x" * 2000)
    assert path.read_text() == "fits"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("blocked", ["file.txt/below", "file.txt/far/below"])
def test_a_folder_that_cannot_be_made_is_said(path, blocked):
    with pytest.raises(WriteError, match=r"cannot write .*below: (Not a directory|File exists)"):
        write_text(path.parent / blocked, "text")
    assert path.read_text() == "old"


def test_a_folder_is_not_overwritten(tmp_path):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(WriteError, match="Is a directory"):
        write_text(tmp_path / "folder", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_sha256_is_that_of_the_bytes(path):
    assert sha256_of(path) == hashlib.sha256(b"old").hexdigest()


def test_a_path_is_checked_without_touching_what_is_there(tmp_path):
    path = tmp_path / "new" / "out.json"
    check_writable(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("kept")
    check_writable(path)
    assert path.read_text() == "kept"
    with pytest.raises(WriteError, match=r"cannot write .*out\.json/x: .*; choose another"):
        check_writable(path / "x")
