"""`sat-optuna show`: what a ticket costs beside plain and full, and every ticket it refuses."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from sat_optuna.backbones.contract import Backbone
from sat_optuna.cli import sat_optuna as group
from sat_optuna.cost.operations import CostModel, measure
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.inside import carried_by
from sat_optuna.supernet.materialise import materialise, scheme_of
from sat_optuna.ticket import AttentionSpec
from tests.cost.clock import Clock
from tests.networks import SHAPE, tiny_supernet
from tests.tickets import ticket_of

SCHEME = Scheme.parse("10-010-1")


def show(*arguments, code=0):
    done = CliRunner().invoke(group, ["show", *arguments], auto_envvar_prefix="SAT_OPTUNA")
    assert done.exit_code == code, done.output
    return done


def error(*arguments):
    done = show(*arguments, code=1)
    assert "Traceback" not in done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def path(tmp_path):
    return ticket_of(tiny_supernet(), SCHEME).save(tmp_path / "ticket.json")


@pytest.fixture
def timed(monkeypatch):
    """Networks that take 10 ms, and 0.5 ms for each connected block, by a clock."""
    clock = Clock(monkeypatch)
    when_materialised(
        monkeypatch, lambda net, _: clock.pass_ms(10 + 0.5 * scheme_of(net).connections)
    )


def when_materialised(monkeypatch, forward):
    """Let networks of a scheme run `forward`, and no others."""
    real = Backbone.forward

    def chosen(net, x):
        return real(net, x) if carried_by(net) is None else forward(net, x)

    monkeypatch.setattr(Backbone, "forward", chosen)


def cells(printed, name):
    """The cells of a printed row."""
    (line,) = (line for line in printed.splitlines() if line.startswith(name))
    return [cell for cell in line.removeprefix(name).split("  ") if cell.strip()]


def test_the_drawing_and_the_costs_of_plain_ticket_and_full(path, timed):
    printed = show(str(path), "--batch", "2", "--rounds", "7").stdout
    assert "ticket 10-010-1 of resnet20 (width 8" in printed
    assert "stage 2  [· ] [SE] [· ]" in printed
    assert "density 0.50" in printed
    net = tiny_supernet()
    model = CostModel(net, SHAPE)
    schemes = (Scheme.uniform(net.stages, 0), SCHEME, Scheme.uniform(net.stages, 1))
    costs = [model.cost(scheme) for scheme in schemes]
    rows = {
        "parameters": "params",
        "multiply-adds an image": "macs",
        "element-wise operations an image": "elementwise",
    }
    for name, field in rows.items():
        counts = [getattr(cost, field) for cost in costs]
        found = [cell.strip() for cell in cells(printed, name)]
        assert found[:3] == [f"{count:,}" for count in counts]
        more, most = (100 * (count / counts[0] - 1) for count in counts[1:])
        assert found[3:5] == [f"{more:+.2f} %", f"{most:+.2f} %"]
        assert found[5] == f"{more / most:.2f}"
    found = [cell.strip() for cell in cells(printed, "latency, ms a batch")]
    assert found[:3] == ["10.000", "11.500", "13.000"]
    assert found[3:] == [
        "+15.0 % (+15.0 % to +15.0 %)",
        "+30.0 % (+30.0 % to +30.0 %)",
        "0.50 (0.50 to 0.50)",
    ]
    assert "median of 7 passes in turn, batch 2, threads " in printed
    assert "the file says 1,234 parameters and 5,678 multiply-adds" in printed
    assert "test accuracy 97.50 %, seed 0, 3 epochs" in printed


def test_what_the_file_says_is_printed_where_it_differs_alone(tmp_path):
    net = tiny_supernet()
    cost = measure(materialise(net, SCHEME), SHAPE)
    ticket = replace(ticket_of(net, SCHEME), params=cost.params, macs=cost.macs, latency_ms=2.25)
    printed = show(str(ticket.save(tmp_path / "ticket.json")), "--no-latency").stdout
    assert "the file says" not in printed
    assert "when the ticket was made: 2.25 ms a batch" in printed


def test_without_latency_nothing_is_measured(path, monkeypatch):
    when_materialised(monkeypatch, None)
    printed = show(str(path), "--no-latency").stdout
    assert "latency" not in printed
    assert "parameters" in printed


def test_one_json_document_holds_the_ticket_and_the_costs(path, timed):
    document = json.loads(show(str(path), "--format", "json").stdout)
    assert document["ticket"] == json.loads(path.read_text())
    latency = document["costs"]["latency"]
    assert latency["ticket_increment_percent"] == pytest.approx(15)
    assert latency["share_of_full"] == pytest.approx(0.5)
    assert (latency["batch"], latency["rounds"], latency["device"]) == (8, 15, "cpu")
    assert latency["threads"] >= 1
    counts = document["costs"]["counts"]
    assert list(counts) == ["params", "macs", "elementwise"]
    assert counts["params"]["share_of_full"] < 1
    without = json.loads(show(str(path), "--format", "json", "--no-latency").stdout)
    fulls = {"se": {what: row["full"] for what, row in counts.items()}}
    assert without["costs"] == {"counts": counts, "fulls": fulls}


@pytest.mark.parametrize(("bit", "share"), [("0", "0.00"), ("1", "1.00")])
def test_plain_and_full_are_tickets_too(tmp_path, timed, bit, share):
    scheme = Scheme.parse(f"{bit * 2}-{bit * 3}-{bit}")
    path = ticket_of(tiny_supernet(), scheme).save(tmp_path / "ticket.json")
    printed = show(str(path)).stdout
    assert cells(printed, "parameters")[-1].strip() == share
    assert ("no block carries attention" in printed) == (bit == "0")
    assert "full of" not in printed  # of one kind there is one full
    assert cells(printed, "latency, ms a batch")[-1].strip() == f"{share} ({share} to {share})"


def test_no_share_where_full_adds_nothing(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    when_materialised(monkeypatch, lambda *_: clock.pass_ms(10))
    path = ticket_of(tiny_supernet(["simam"]), SCHEME).save(tmp_path / "ticket.json")
    printed = show(str(path)).stdout
    for name in ("parameters", "multiply-adds an image", "latency, ms a batch"):
        assert cells(printed, name)[-1].strip() == "-"


def test_of_several_kinds_full_is_the_first_and_a_shared_module_counts_once(tmp_path, timed):
    net = tiny_supernet([AttentionSpec(kind="dia", sharing="stage"), "se"])
    path = ticket_of(net, Scheme.parse("20-011-2")).save(tmp_path / "ticket.json")
    printed = show(str(path)).stdout
    assert "[SE ] [ · ]" in printed
    assert "full is DIA in every block" in printed
    other = CostModel(net, SHAPE).cost(Scheme.uniform((2, 3, 1), 2))
    said = f"full of SE: {other.params:,} parameters, {other.macs:,} multiply-adds an image, "
    assert said in printed
    found = json.loads(show(str(path), "--no-latency", "--format", "json").stdout)
    assert list(found["costs"]["fulls"]) == ["dia", "se"]
    assert found["costs"]["fulls"]["dia"]["params"] == found["costs"]["counts"]["params"]["full"]
    cost = measure(materialise(net, Scheme.parse("20-011-2")), SHAPE)
    assert cells(printed, "parameters")[1].strip() == f"{cost.params:,}"


def test_a_real_network_is_measured(path):
    latency = json.loads(show(str(path), "--format", "json").stdout)["costs"]["latency"]
    assert min(latency["plain_ms"], latency["ticket_ms"], latency["full_ms"]) > 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "is not complete JSON"),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), "has schema 99, this version"),
        (lambda text: text.replace('"10-010-1"', '"10-0x0-1"'), "scheme"),
        (lambda text: "", "is not complete JSON"),
        (lambda text: text.replace('"10-010-1"', '"10-010"'), "has stages (2, 3) and the network"),
        (
            lambda text: text.replace('"resnet20"', '"resnet21"'),
            "no backbone 'resnet21'; did you mean",
        ),
        (lambda text: text.replace('"width"', '"widht"'), "did you mean 'width'?"),
        (lambda text: text.replace('"kind": "se"', '"kind": "sse"'), "did you mean 'se'?"),
        (lambda text: text.replace('"settings": {}', '"settings": {"reduction": 0}'), "reduction"),
    ],
    ids=["cut", "later schema", "digit", "empty", "stages", "backbone", "width", "kind", "value"],
)
def test_a_broken_ticket_is_refused(path, damage, words):
    path.write_text(damage(path.read_text()))
    assert words in error(str(path))


@pytest.mark.parametrize("batch", ["100000000000", "1" + "0" * 30])
def test_a_batch_that_does_not_fit_is_one_sentence(path, batch):
    assert f"batch {batch} cannot be run here (" in error(str(path), "--batch", batch)


@pytest.mark.parametrize("width", [10**9, 10**30])
def test_an_absurd_width_is_one_sentence(path, width):
    path.write_text(path.read_text().replace('"width": 8', f'"width": {width}'))
    said = "cannot be" if width < 2**63 else "width is a whole number of more than 64 bits"
    assert said in error(str(path), "--no-latency")


def test_an_exported_file_is_a_ticket_and_a_program_is_none(tmp_path):
    net = tiny_supernet()
    ticket = ticket_of(net, SCHEME)
    path = tmp_path / "file.safetensors"
    export_ticket(materialise(net, SCHEME), ticket, path, to="safetensors")
    document = json.loads(show(str(path), "--no-latency", "--format", "json").stdout)
    assert document["ticket"] == json.loads(ticket.to_json())
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot read" in error(str(path))
    program = path.rename(path.with_suffix(".pt2"))
    assert "file.pt2 is a program, which holds no network that could be" in error(str(program))


def test_too_few_rounds_and_no_file(path):
    assert "5 rounds given; give at least 6" in error(str(path), "--rounds", "5")
    assert "cannot read ticket none.json" in error("none.json")
    assert "not in the range" in show(str(path), "--batch", "0", code=2).stderr
