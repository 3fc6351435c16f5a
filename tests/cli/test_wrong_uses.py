"""Forty wrong uses of the command line: one sentence, exit 1 or 2, and nothing half-written."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sat_optuna.cli import main
from sat_optuna.scheme import Scheme
from tests.networks import tiny_supernet
from tests.studies import STUDY, make_study
from tests.tickets import ticket_of

LONG = "x" * 100_000
DEEP = 2000


def toml(old: str, new: str) -> Callable[[Path], object]:
    """Change studies/tiny/study.toml."""

    def change(project: Path) -> None:
        path = project / "studies" / "tiny" / "study.toml"
        assert old in path.read_text(encoding="utf-8")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    return change


def more(text: str) -> Callable[[Path], object]:
    """Add to studies/tiny/study.toml."""
    return toml(STUDY, STUDY + text)


def ticket(**changed: object) -> Callable[[Path], object]:
    """Change values of ticket.json."""

    def change(project: Path) -> None:
        path = project / "ticket.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def held(name: str, text: str) -> Callable[[Path], object]:
    """Write a file of the project."""
    return lambda project: (project / name).write_text(text)


def pipe(name: str) -> Callable[[Path], object]:
    """Make a named pipe, reading from which never ends."""

    def change(project: Path) -> None:
        (project / name).unlink(missing_ok=True)
        os.mkfifo(project / name)

    return change


def nothing(_project: Path) -> None:
    """Change nothing."""


def safetensors(text: str) -> Callable[[Path], object]:
    """Write file.safetensors, whose record is the text."""

    def change(project: Path) -> None:
        header = json.dumps({"__metadata__": {"sat_optuna": text}}).encode()
        content = len(header).to_bytes(8, "little") + header
        (project / "file.safetensors").write_bytes(content)

    return change


SHOW = ("show", "ticket.json", "--no-latency")
EXPORT = ("export", "ticket.json", "--to", "safetensors")

USES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], int, str]] = {
    # The command line itself.
    "no such command": (nothing, ("serach",), 2, "no command 'serach'; did you mean 'search'?"),
    "a command like no other": (nothing, ("xyzzy",), 2, "no command 'xyzzy'; see sat-optuna --h"),
    "no argument": (nothing, ("search",), 2, "Missing argument 'STUDY'"),
    "an unknown option": (nothing, ("run", "tiny", "--trails", "3"), 2, "No such option '?--trai"),
    "no trials": (nothing, ("search", "tiny", "--trials", "0"), 2, "0 is not in the range x>=1"),
    "trials in words": (nothing, ("run", "tiny", "--trials", "many"), 2, "'many' is not a valid"),
    "an endless option": (nothing, ("run", f"--{LONG}"), 2, "No such option"),
    "another format": (nothing, ("trials", "tiny", "--format", "xml"), 2, "'xml' is not one of"),
    "a port that is none": (nothing, ("dashboard", "tiny", "--port", "70000"), 2, "not in the r"),
    # Studies.
    "no such study": (nothing, ("run", "tinny"), 1, "no study 'tinny'.*did you mean 'tiny'"),
    "no name of a study": (nothing, ("check", ""), 1, "no study ''"),
    "an endless name": (nothing, ("check", LONG), 1, "no study 'xxx.* ... .*sat-optuna new"),
    "an escape as a name": (nothing, ("check", "\x1b[31m"), 1, r"no study '\\x1b\[31m'"),
    "a new study without a name": (nothing, ("new", ""), 2, "'' is no name for a study"),
    "a new study of spaces": (nothing, ("new", "  "), 2, "'  ' is no name for a study"),
    "a new study above": (nothing, ("new", ".."), 2, "'..' is no name for a study"),
    "a new study with an escape": (nothing, ("new", "a\x1bb"), 2, r"'a\\x1bb' is no name"),
    "a new study that is there": (nothing, ("new", "tiny"), 1, "exists already; edit it, or choo"),
    "trials before a search": (nothing, ("trials", "tiny"), 1, "no search was run yet"),
    "a report before a search": (nothing, ("report", "tiny"), 1, "no search was run yet"),
    "a ticket before a search": (nothing, ("ticket", "tiny"), 1, "no search was run yet"),
    "a front before a search": (nothing, ("ticket", "tiny", "--front"), 1, "no search was run"),
    "a trial and the front": (
        nothing, ("ticket", "tiny", "--front", "--trial", "1"), 2, "give one of them"
    ),
    "a share of no latency": (
        toml("trials = 9", "max_latency_share = 0"), ("run", "tiny"), 1, "write at least 0.01"
    ),
    "an objective like no other": (
        toml("trials = 9", 'objectives = ["accuracy", "speed"]'), ("run", "tiny"), 1, "has 'speed'"
    ),
    "a setting of another sampler": (
        toml("trials = 9", 'sampler = "tpe"\nsampler_settings = { population_size = 9 }'),
        ("run", "tiny"), 1, "has 'population_size', which sampler 'tpe' does not take"
    ),
    "a retraining before a search": (nothing, ("retrain", "tiny"), 1, "no search was run yet"),
    "a search before pretraining": (
        nothing, ("search", "tiny", "--no-mlflow"), 1, "has 0 of 2 epochs; run: sat-optuna pretr"
    ),
    "an enumeration before pretraining": (nothing, ("enumerate", "tiny"), 1, "has 0 of 2 epochs"),
    # study.toml.
    "no TOML": (toml("seed = 0", "seed ="), ("check", "tiny"), 1, "is not TOML"),
    "nested without end": (
        more(f"deep = {'[' * DEEP}{']' * DEEP}"), ("check", "tiny"), 1, "is not TOML: max.* recur"
    ),
    "tables without end": (
        more(f"[data.{'a.' * DEEP}a]\n"), ("run", "tiny"), 1, "is nested more than 32 deep"
    ),
    "5,000 digits": (
        toml("seed = 0", f"seed = {'9' * 5000}"), ("check", "tiny"), 1, "is not TOML: Exceeds the"
    ),
    "more than 64 bits": (
        toml("trials = 9", f"trials = {10**30}"), ("run", "tiny"), 1, "search.trials is a whole nu"
    ),
    "a NUL byte": (
        toml("limit = 300", 'root = "a\\u0000b"'), ("pretrain", "tiny"), 1, "data.root has contr"
    ),
    "a raw NUL byte": (more("\0"), ("check", "tiny"), 1, "is not TOML"),
    "a NUL byte in a plugin": (
        more('[plugins]\nmodules = ["a\\u0000.py"]\n'), ("run", "tiny"), 1, "has control char"
    ),
    "a plugin from outside": (
        more('[plugins]\nmodules = ["../../outside.py"]\n'),
        ("check", "tiny"), 1, "outside.py lies outside of its study's folder"
    ),
    "an endless backbone": (
        toml("width = 4", f'backbone = "{LONG}"'), ("check", "tiny"), 1, r"is 'xx.* \.\.\. "
    ),
    "a key near none": (
        toml("trials = 9", 'colour = "a"'), ("check", "tiny"), 1, "'search.colour'; known: obj"
    ),
    "a start from no weights": (
        toml("[retrain]", '[retrain]\nstart = "weights"'),
        ("check", "tiny"), 1, "is 'weights' and .network. names none; set network.weights to a"
    ),
    "a setting that no builder has": (
        toml("width = 4", "settings = { width = 4, depth = 3 }"),
        ("check", "tiny"), 1, "has no setting 'depth'; it has: width, stem_stride, blocks, head, d"
    ),
    "a device that is not here": (
        toml("seed = 0", 'seed = 0\ndevice = "cuda:99"'),
        ("pretrain", "tiny"), 1, "there is no device 'cuda:99'; give one of those here: cpu"
    ),
    "a pipe as study.toml": (
        pipe("studies/tiny/study.toml"), ("check", "tiny"), 1, "it is a pipe or a device, not a f"
    ),
    # Tickets and weights.
    "no such ticket": (nothing, ("show", "none.json"), 1, "cannot read ticket none.json"),
    "a cut ticket": (held("ticket.json", '{"schema": 1,'), SHOW, 1, "is not complete JSON"),
    "a deep ticket": (ticket(config=json.loads("[" * 50 + "]" * 50)), SHOW, 1, "than 32 deep"),
    "a ticket nested without end": (
        held("ticket.json", "[" * 10**5), SHOW, 1, "is not complete JSON"
    ),
    "an escape in a ticket": (ticket(study="\x1b[2J"), SHOW, 1, "study has control characters"),
    "half a character in a ticket": (ticket(dataset="\ud800"), SHOW, 1, "dataset has control"),
    "an infinite ticket": (
        ticket(config={"a": float("inf")}), SHOW, 1, "config.a is inf; write a finite number"
    ),
    "images without end": (ticket(input_shape=[3, 10**12, 10**12]), SHOW, 1, "cannot be run here"),
    "images of no channel": (ticket(input_shape=[0, 8, 8]), SHOW, 1, "each at least 1"),
    "10^12 images": (nothing, ("show", "ticket.json", "--batch", str(10**12)), 1, "cannot be run"),
    "a pipe as a ticket": (pipe("ticket.json"), SHOW, 1, "it is a pipe or a device, not a file"),
    "a device as a ticket": (nothing, ("show", "/dev/zero"), 1, "it is a pipe or a device, not a"),
    "a pipe as an exported file": (
        pipe("file.safetensors"), ("show", "file.safetensors"), 1, "it is a pipe or a device"
    ),
    "a pipe as weights": (
        pipe("pipe"), (*EXPORT, "--weights", "pipe"), 1, "it is a pipe or a device, not a file"
    ),
    "deep metadata": (
        safetensors("[" * 10**5), ("show", "file.safetensors"), 1, "maximum recursion depth"
    ),
    "weights of nothing": (
        safetensors("{}"), (*EXPORT, "--weights", "file.safetensors"), 1, "does not hold the weig"
    ),
    "an export of no study": (nothing, EXPORT, 1, "does not lie in the tickets/ of a study"),
    "a name of another format": (
        nothing, (*EXPORT, "--out", "x.pt2"), 1, "x.pt2 shall be safetensors; give a name that"
    ),
    "an opset of safetensors": (nothing, (*EXPORT, "--opset", "18"), 1, "opset 18 given with saf"),
    # The rest.
    "no such data set": (nothing, ("data", "get", "mnist"), 1, "did you mean 'mnist5k'?"),
    "no such list": (nothing, ("ls", "everything"), 2, "'everything' is not one of"),
    "no runs to show": (nothing, ("ui",), 1, "holds no mlflow.db: no run was logged there"),
    "a doctor of no study": (nothing, ("doctor", "nope"), 1, "no study 'nope'"),
}  # fmt: skip


def files(project: Path) -> dict[str, bytes | None]:
    """Every file under a project with its bytes, but for the lock of a study."""
    return {
        str(path.relative_to(project)): path.read_bytes() if path.is_file() else None
        for path in sorted(project.rglob("*"))
        if path.name not in ("lock", "work")
    }


@pytest.mark.parametrize("use", USES)
def test_a_wrong_use_is_one_sentence_and_leaves_nothing(use, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside.py").write_text("raise SystemExit('plugin from outside was run')")
    make_study(tmp_path)
    ticket_of(tiny_supernet(), Scheme.parse("10-010-1")).save(tmp_path / "ticket.json")
    change, arguments, code, words = USES[use]
    change(tmp_path)
    before = files(tmp_path)
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    said = printed.err.strip().splitlines()[-1]  # before it stands at most how a command is used
    assert re.search(words, said), said[:3000]
    assert said.startswith("Error: ")
    assert len(printed.err) < 4000
    assert "Traceback" not in printed.err
    assert "\x1b" not in printed.err
    assert files(tmp_path) == before


def test_there_are_forty_of_them():
    assert len(USES) >= 40
