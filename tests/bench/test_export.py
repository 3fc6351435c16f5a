"""The table of differences: complete, and resumable."""

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from sat_optuna.bench import export as bench
from sat_optuna.bench.document import BenchError
from sat_optuna.bench.export import bench_export
from sat_optuna.cli.bench_export import export
from sat_optuna.cli.console import Console
from sat_optuna.errors import UnknownName
from sat_optuna.export import SUFFIXES
from sat_optuna.export.write import export_ticket

if TYPE_CHECKING:
    from sat_optuna.events import Event

SMALL: dict[str, Any] = {"modules": ["se"], "side": 8}


@pytest.fixture
def quick(monkeypatch):
    """One format is enough where the others are not looked at."""
    monkeypatch.setattr(bench, "SUFFIXES", {"safetensors": ".safetensors"})


def table(*arguments):
    console = Console(quiet=False, verbose=True)
    return CliRunner().invoke(export, ["--backbone", "resnet20", *arguments], obj=console)


@pytest.mark.slow
def test_a_row_for_each_module_format_and_batch(tmp_path):
    out = tmp_path / "m.json"
    seen: list[Event] = []
    document = bench_export("resnet20", **SMALL, out=out, on_event=seen.append)
    assert [event.message for event in seen] == [f"se {to}" for to in SUFFIXES]
    assert [(event.done, event.total) for event in seen] == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(out.read_text()) == document
    rows = document["rows"]
    assert [(row["format"], row["batch"]) for row in rows] == [
        (to, batch) for to in SUFFIXES for batch in (1, 2, 5)
    ]
    assert all(row["difference"] <= document["tolerance"][row["format"]] for row in rows)
    assert max(row["difference"] for row in rows) > 0
    assert [row["opset"] is None for row in rows] == [True] * 6 + [False] * 3


@pytest.mark.usefixtures("quick")
def test_what_a_file_holds_is_not_done_again(tmp_path, monkeypatch):
    out = tmp_path / "m.json"
    first = bench_export("resnet20", **SMALL, out=out)
    asked = []

    def noted(network, ticket, path, *, to):
        asked.append(ticket.attention[0].kind)
        return export_ticket(network, ticket, path, to=to)

    monkeypatch.setattr(bench, "export_ticket", noted)
    both = bench_export("resnet20", modules=["se", "dia"], side=8, out=out)
    assert asked == ["dia"]
    assert both["rows"][:3] == first["rows"]
    assert [row["sharing"] for row in both["rows"]] == ["block"] * 3 + ["stage"] * 3


@pytest.mark.usefixtures("quick")
def test_a_file_of_something_else_is_not_added_to(tmp_path):
    out = tmp_path / "m.json"
    bench_export("resnet20", **SMALL, out=out)
    with pytest.raises(BenchError, match="was begun with another image; choose another --out"):
        bench_export("resnet20", modules=["se"], side=16, out=out)
    for text in ("[]", "{}", "3", "cut"):
        out.write_text(text)
        with pytest.raises(BenchError, match="holds something else than exports; choose another"):
            bench_export("resnet20", **SMALL, out=out)
        assert out.read_text() == text


@pytest.mark.usefixtures("quick")
def test_the_command_prints_differences_that_can_be_read(tmp_path):
    out = tmp_path / "m.json"
    done = table("--modules", "se, dia", "--resolution", "8", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "0.0e+00" in done.stdout
    assert f"{out} written" in done.stderr
    printed = table("--modules", "se", "--resolution", "8", "--format", "json").stdout
    assert [row["difference"] for row in json.loads(printed)] == [0.0] * 3


def test_an_unknown_module_is_named():
    with pytest.raises(UnknownName, match=r"'sse'.*did you mean 'se'"):
        bench_export("resnet20", modules=["sse"], side=8)
