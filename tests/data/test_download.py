import errno
import hashlib
import io
import tarfile

import pytest

from sat_optuna.data.cifar import Cifar10, Cifar100
from sat_optuna.data.download import fetch, staged, unpack_tar
from sat_optuna.data.fashion_mnist import FashionMnist
from sat_optuna.data.stl10 import Stl10
from sat_optuna.errors import DataError, WriteError
from tests.data.formats import tar_of, write_cifar10, write_stl10


@pytest.mark.parametrize(
    ("source", "write"), [(Cifar10, write_cifar10), (Stl10, write_stl10)], ids=["cifar10", "stl10"]
)
def test_an_archive_is_fetched_unpacked_and_landed(tmp_path, served, source, write):
    packed = tar_of(write(tmp_path / "true"))
    (served.folder / "set.tar.gz").write_bytes(packed)

    near = type(
        "Near",
        (source,),
        {"url": f"{served.url}/set.tar.gz", "md5": hashlib.md5(packed).hexdigest()},
    )
    root = tmp_path / "data"
    folder = near().get(root)
    true = {file.name: file.read_bytes() for file in (tmp_path / "true").rglob("*.*")}
    assert true.items() <= {file.name: file.read_bytes() for file in folder.iterdir()}.items()
    assert not (folder / "readme.html").exists()
    assert [entry.name for entry in root.iterdir()] == [folder.name]
    (served.folder / "set.tar.gz").unlink()
    assert near().get(root) == folder


def test_other_bytes_than_published_are_refused(tmp_path, served):
    (served.folder / "set.tar.gz").write_bytes(b"something else")

    class Near(Cifar10):
        url = f"{served.url}/set.tar.gz"

    with pytest.raises(
        DataError, match=r"cannot fetch cifar10 \(.* has the MD5 .* instead of .*\); put data_b"
    ):
        Near().get(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_missing_page_is_a_reason(tmp_path, served):
    with pytest.raises(OSError, match="404"):
        fetch(f"{served.url}/nothing", "", tmp_path / "file")


def test_an_archive_without_a_file_is_refused(tmp_path):
    packed = tmp_path / "set.tar.gz"
    packed.write_bytes(tar_of(write_stl10(tmp_path)))
    with pytest.raises(OSError, match=r"set.tar.gz holds no stl10_binary/other"):
        unpack_tar(packed, "stl10_binary", ["train_y.bin", "other"], tmp_path)


def odd_member(kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo("set/a")
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "member",
    [
        odd_member(tarfile.SYMTYPE, "nowhere"),
        odd_member(tarfile.SYMTYPE, "../../etc/passwd"),
        odd_member(tarfile.LNKTYPE, "set/nothing"),
        odd_member(tarfile.LNKTYPE, "set/b"),
        odd_member(tarfile.DIRTYPE),
        odd_member(tarfile.FIFOTYPE),
        odd_member(tarfile.CHRTYPE),
    ],
    ids=lambda member: member.type.decode() + member.linkname,
)
def test_a_member_that_is_no_file_of_bytes_is_not_taken_for_one(tmp_path, member):
    packed = tmp_path / "set.tar"
    with tarfile.open(packed, "w") as archive:
        true = tarfile.TarInfo("set/b")
        true.size = 3
        archive.addfile(true, io.BytesIO(b"abc"))
        archive.addfile(member)
    with pytest.raises(OSError, match=r"^set.tar holds no set/a$"):
        unpack_tar(packed, "set", ["a", "b"], tmp_path)
    assert (tmp_path / "b").read_bytes() == b"abc"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("address", [Cifar10.url, Cifar100.url, Stl10.url, FashionMnist.mirror])
def test_data_come_over_https(address):
    assert address.startswith("https://")


def stopped(root, fault: BaseException) -> None:
    with staged(root, root / "set", ["a"], name="toy", advice="put a there") as stage:
        (stage / "a").write_text("half")
        raise fault


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "cannot write toy .*space"),
        (OSError("no answer"), DataError, r"cannot fetch toy \(no answer\); put a there"),
        (EOFError("cut off"), DataError, r"cannot fetch toy \(cut off\); put a there"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_what_stops_it_leaves_nothing_behind(tmp_path, fault, expected, message):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("whole")
    with pytest.raises(expected, match=message):
        stopped(tmp_path, fault)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "a").read_text() == "whole"


def test_a_root_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write stl10 to .*file/stl10_binary \(.*exists"):
        Stl10().get(tmp_path / "file")
