"""A ticket: its JSON is its value, and nothing else is taken for one."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import TicketError, WriteError
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import (
    ACCURACY,
    ROLES,
    SCHEMA,
    SHARINGS,
    AttentionSpec,
    Inputs,
    Measure,
    Score,
    Ticket,
)

# No control characters: nothing that is read may hold one.
NAMES = st.text(max_size=6).map(lambda text: "".join(filter(str.isprintable, text)))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**60)
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), WHOLE, FLOATS, NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)
SPECS = st.builds(
    AttentionSpec,
    kind=NAMES,
    sharing=st.sampled_from(SHARINGS),
    settings=st.dictionaries(NAMES, st.one_of(st.booleans(), WHOLE, FLOATS, NAMES), max_size=2),
)
SCORES = st.builds(
    Score,
    split=st.sampled_from(("train", "valid", "test")),
    value=st.floats(0, 100),
    seed=COUNTS,
    epochs=COUNTS,
)


def maybe(strategy):
    return st.one_of(st.none(), strategy)


CHANNELS = st.just(()) | st.tuples(*[st.floats(0.01, 1)] * 2)
INPUTS = st.builds(
    lambda names, mean, white, resize: Inputs(
        class_names=names, mean=mean, std=mean, white=white, resize=resize
    ),
    names=st.just(("a", "b")),
    mean=CHANNELS,
    white=st.integers(1, 65535),
    resize=st.booleans(),
)
TICKETS = st.builds(
    Ticket,
    role=st.sampled_from(ROLES),
    scheme=st.lists(st.integers(0, 2), min_size=1, max_size=6).map(
        lambda choices: Scheme.of(choices, (len(choices),))
    ),
    backbone=NAMES,
    backbone_settings=OBJECTS,
    attention=st.lists(SPECS, min_size=2, max_size=3).map(tuple),
    classes=st.just(2),
    input_shape=st.tuples(st.just(2), *[st.integers(1, 512)] * 2),
    dataset=NAMES,
    dataset_fingerprint=NAMES,
    seed=COUNTS,
    params=COUNTS,
    macs=COUNTS,
    scores=st.lists(SCORES, max_size=3).map(tuple),
    latency_ms=maybe(st.floats(0, 1e6)),
    latency_rounds=st.lists(st.floats(0, 1e6), max_size=3).map(tuple),
    images=st.dictionaries(st.sampled_from(["train", "test"]), COUNTS),
    study=maybe(NAMES),
    study_uuid=maybe(NAMES),
    trial=maybe(COUNTS),
    mlflow_run=maybe(NAMES),
    versions=st.dictionaries(NAMES, NAMES, max_size=2),
    config=OBJECTS,
    inputs=maybe(INPUTS),
    weights=maybe(NAMES),
)

TICKET = Ticket(
    role="ticket",
    scheme=Scheme.parse("110-010"),
    backbone="resnet20",
    backbone_settings={"width": 8, "blocks": [3, 3]},
    attention=(AttentionSpec(kind="se", settings={"reduction": 16}),),
    classes=10,
    input_shape=(1, 28, 28),
    dataset="mnist5k",
    dataset_fingerprint="ab" * 32,
    seed=0,
    params=70_000,
    macs=3_000_000,
    scores=(Score(split="test", value=97.5, seed=0, epochs=10),),
    latency_ms=12.5,
    study="quickstart",
    study_uuid="1-2-3",
    trial=17,
    versions={"python": "3.11.0"},
    config=StudyConfig().to_dict(),
    inputs=Inputs(class_names=tuple("0123456789"), mean=(0.5,), std=(0.25,)),
)


def document():
    return json.loads(TICKET.to_json())


DOCUMENT = {key: value for key, value in document().items() if key != "schema"}


def refusal(text, source="t.json"):
    with pytest.raises(TicketError) as caught:
        Ticket.from_json(text, source=source)
    return str(caught.value)


@given(TICKETS)
def test_json_and_back_is_the_same_ticket(ticket):
    text = ticket.to_json()
    again = Ticket.from_json(text)
    assert again == ticket
    assert again.to_json() == text


def test_json_is_strict_starts_with_the_schema_and_names_the_scheme_as_text():
    text = TICKET.to_json()
    assert text.startswith(f'{{\n  "schema": {SCHEMA},\n')
    assert document()["scheme"] == "110-010"
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(TICKET, config={"lr": math.nan}).to_json()


def test_saved_and_loaded_it_is_the_same_ticket(tmp_path):
    path = tmp_path / "tickets" / "ticket.json"
    assert TICKET.save(path) == path
    assert Ticket.load(path) == TICKET
    assert list(path.parent.iterdir()) == [path]


def test_a_ticket_that_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(WriteError, match="cannot write"):
        TICKET.save(tmp_path / "file" / "ticket.json")
    assert (tmp_path / "file").read_text() == "old"


def test_cut_anywhere_it_is_refused():
    text = TICKET.to_json().rstrip()
    for length in range(len(text)):
        assert "may be cut off" in refusal(text[:length])


def test_a_cut_file_is_named_and_says_what_to_do(tmp_path):
    path = TICKET.save(tmp_path / "ticket.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(TicketError) as caught:
        Ticket.load(path)
    assert str(caught.value).startswith(f"{path} is not complete JSON (")
    assert str(caught.value).endswith("; it may be cut off, so fetch or write it again")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}"], ids=["deep", "long number"]
)
def test_json_that_python_cannot_hold_is_refused(text):
    assert "is not complete JSON" in refusal(text)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"ticket"', "{}", '{"role": "ticket"}'])
def test_other_json_is_refused(text):
    assert (
        refusal(text) == "t.json is no ticket: it has no schema number; give a ticket's JSON file"
    )


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", True, 1.0, None])
def test_another_schema_is_refused(schema):
    assert refusal(json.dumps(document() | {"schema": schema})) == (
        f"t.json has schema {schema!r}, this version reads schema {SCHEMA}; "
        "install the version of sat_optuna that wrote it"
    )


def test_an_unknown_key_is_refused():
    text = json.dumps(document() | {"colour": 1, "author": 2})
    assert refusal(text) == "t.json: ticket has the unknown keys author, colour; remove them"


def test_a_ticket_of_an_earlier_version_says_nothing_of_inputs_and_weights():
    earlier = document()
    del earlier["inputs"]
    found = Ticket.from_json(json.dumps(earlier))
    assert found == replace(TICKET, inputs=None, weights=None)
    assert json.loads(found.to_json()) == earlier


@pytest.mark.parametrize("key", [key for key in DOCUMENT if key != "inputs"])
def test_each_key_must_be_there(key):
    given = document()
    del given[key]
    assert refusal(json.dumps(given)) == f"t.json: ticket lacks the keys {key}; add them"


IDS = ("study", "study_uuid", "mlflow_run")


@pytest.mark.parametrize("key", [*DOCUMENT, "weights"])
@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (True, ()),
        (1.5, ("latency_ms",)),
        ("text", ("backbone", "dataset", "dataset_fingerprint", "weights", *IDS)),
        ([1], ()),
        ({"a": 1}, ("backbone_settings", "config")),
        (None, ("latency_ms", "trial", *IDS)),
    ],
)
def test_each_key_takes_its_type_alone(key, value, keys):
    given = document() | {key: value}
    if key in keys:
        assert json.loads(Ticket.from_json(json.dumps(given)).to_json()) == given
    else:
        assert refusal(json.dumps(given)).startswith("t.json: ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", True, "classes of ticket is True; write a whole number"),
        ("classes", 0, "ticket has classes = 0; write at least 1"),
        ("params", -1, "ticket has params = -1; write at least 0"),
        ("trial", "x", "trial of ticket is 'x'; write a whole number or null"),
        ("latency_ms", "x", "latency_ms of ticket is 'x'; write a number or null"),
        ("latency_rounds", ["x"], "a number in latency_rounds of ticket is 'x'; write a number"),
        ("images", {"test": 0.5}, "images of test of ticket is 0.5; write a whole number"),
        ("latency_ms", -1.0, "ticket has latency_ms = -1.0; write milliseconds, or none"),
        (
            "role",
            "best",
            "ticket has role 'best'; "
            "write one of ticket, plain, full, constant, random-density, searched, candidate, "
            "random-best, first-k, last-k, every-other, stage-ends, full-KIND or random-N",
        ),
        ("role", "random-foo", "ticket has role 'random-foo'; write one of ticket, plain, full,"),
        ("role", "random-", "ticket has role 'random-'; write one of ticket, plain, full,"),
        ("role", "random-1x", "ticket has role 'random-1x'; write one of ticket, plain, full,"),
        ("role", "full-", "ticket has role 'full-'; write one of ticket, plain, full,"),
        (
            "scheme",
            "110-020",
            "scheme 110-020 uses kind 2 of attention, the ticket lists 1; "
            "list each kind that it uses",
        ),
        (
            "scheme",
            "1?0",
            "scheme '1?0' has '?' at block 2; "
            "write a digit 0-9 or a-z a block and '-' between stages",
        ),
        (
            "input_shape",
            [28, 28],
            "ticket has input shape (28, 28); write C, H and W, each at least 1",
        ),
        (
            "input_shape",
            [1, 28, 0],
            "ticket has input shape (1, 28, 0); write C, H and W, each at least 1",
        ),
        (
            "input_shape",
            [1, 28, 28.0],
            "a size in input_shape of ticket is 28.0; write a whole number",
        ),
        ("versions", {"torch": 2}, "version of torch of ticket is 2; write a text"),
        ("scores", [3], "score is 3; write an object"),
        ("scores", [{"split": "test"}], "score lacks the keys epochs, seed, value; add them"),
        ("inputs", {}, "inputs lacks the keys class_names, mean, numbers, resize, std, white;"),
        ("inputs", {"mean": ["a"]}, "a number in mean and std of inputs is 'a'; write a number"),
        ("inputs", {"std": [0.0]}, "inputs has mean (0.5,) and std (0.0,); write one of each a"),
        ("inputs", {"std": []}, "inputs has mean (0.5,) and std (); write one of each a channel"),
        ("inputs", {"mean": [0.1, 0.2], "std": [1.0, 1.0]}, "ticket has 1 channels and 2 means"),
        ("inputs", {"white": 0}, "inputs has white 0; write a number of at least 1"),
        ("inputs", {"class_names": ["a"]}, "ticket has 10 classes and names 1 of them in inputs"),
        ("attention", [{}], "attention lacks the keys kind, settings, sharing; add them"),
    ],
)
def test_a_wrong_value_is_named(key, value, said):
    if key == "inputs" and value:
        value = document()["inputs"] | value
    assert refusal(json.dumps(document() | {key: value})).startswith(f"t.json: {said}")


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("scores", "value", "98", "value of score is '98'; write a number"),
        ("scores", "value", 101, "score has value 101; an accuracy lies in 0..100 per cent"),
        ("scores", "split", "exam", "score has split 'exam'; write one of train, valid, test"),
        ("scores", "best", 1, "score has the unknown keys best; remove them"),
        (
            "attention",
            "sharing",
            "net",
            "attention 'se' has sharing 'net'; write one of block, stage",
        ),
        (
            "attention",
            "settings",
            {"reduction": [1]},
            "attention 'se' has reduction = [1]; write a number, a text, true or false",
        ),
    ],
)
def test_a_wrong_value_inside_is_named(part, key, value, said):
    given = document()
    given[part][0][key] = value
    assert refusal(json.dumps(given)) == f"t.json: {said}"


def test_nan_is_no_accuracy_and_no_latency():
    with pytest.raises(TicketError, match="value nan; an accuracy lies in"):
        Score(split="test", value=math.nan, seed=0, epochs=1)
    with pytest.raises(TicketError, match="latency_ms = nan"):
        replace(TICKET, latency_ms=math.nan)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, make, reason):
    path = tmp_path / "ticket.json"
    make(path)
    with pytest.raises(TicketError) as caught:
        Ticket.load(path)
    assert str(caught.value).startswith(f"cannot read ticket {path}: {reason}")
    assert str(caught.value).endswith("; give a ticket's JSON file")


def test_reading_a_ticket_imports_nothing_heavy(tmp_path):
    path = TICKET.save(tmp_path / "ticket.json")
    program = (
        "import sys; from pathlib import Path; from sat_optuna.ticket import Ticket\n"
        f"Ticket.load(Path({str(path)!r}))\n"
        "assert not {'torch', 'numpy', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_score_of_another_metric_says_which_and_an_accuracy_reads_as_ever():
    loss = Measure("log_loss", "nats", "lower")
    scores = tuple(
        Score(split="test", value=value, seed=0, epochs=1, measure=measure)
        for value, measure in ((90.0, ACCURACY), (123.4, loss), (-0.5, Measure("r2", "")))
    )
    ticket = replace(TICKET, scores=scores)
    assert Ticket.from_json(ticket.to_json()) == ticket
    accuracy, other, _ = json.loads(ticket.to_json())["scores"]
    assert accuracy == {"split": "test", "value": 90.0, "seed": 0, "epochs": 1}
    assert other["measure"] == {"name": "log_loss", "unit": "nats", "better": "lower"}


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ({"name": "f", "unit": "%"}, "measure lacks the keys better; add them"),
        (
            {"name": "f", "unit": "%", "better": "more"},
            "metric 'f' is better 'more'; write higher",
        ),
        (None, "measure is None; write an object"),
    ],
)
def test_a_measure_that_is_none_is_one_sentence(measure, said):
    document = json.loads(TICKET.to_json())
    score = {"split": "test", "value": 1.0, "seed": 0, "epochs": 1, "measure": measure}
    with pytest.raises(TicketError, match=f"^this text: {said}"):
        Ticket.from_json(json.dumps(document | {"scores": [score]}))
