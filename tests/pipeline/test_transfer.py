"""A study whose ticket is given: how it is made, what fits, what it says; nothing is trained."""

import json
from dataclasses import replace
from typing import Any

import pytest

import sat_optuna as sat
from sat_optuna.attention import ATTENTION
from sat_optuna.config.config import DataConfig, StudyConfig, TaskConfig, TrainConfig
from sat_optuna.errors import ConfigError, DataError, SatOptunaError, StudyError
from sat_optuna.evidence.results import RetrainResult, write_result
from sat_optuna.pipeline.given import read_given, ticket_here
from sat_optuna.pipeline.transfer import make_transfer
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import AttentionSpec, Score, Ticket
from tests.cli.test_commands import error, run
from tests.data.formats import write_points
from tests.studies import make_study

SRM = AttentionSpec(kind="srm")
SGE = AttentionSpec(kind="sge", settings={"groups": 2})


def source(tmp_path, scheme="100-010-10", attention=(SRM,), **more):
    """Write a ticket of a search, as a colleague sends it."""
    config = StudyConfig(
        seed=5, train=TrainConfig(batch=32, mixup=0.2, label_smoothing=0.1, warmup=3)
    )
    found = Scheme.parse(scheme)
    ticket = Ticket(
        role="ticket",
        scheme=found,
        backbone="resnet20",
        backbone_settings={"width": 4, "stem_stride": 2, "blocks": list(found.stages)},
        attention=attention,
        classes=10,
        input_shape=(4, 16, 16),
        dataset="cued-digits",
        dataset_fingerprint="ab12",
        seed=5,
        params=100,
        macs=1000,
        study="the digits",
        study_uuid="u1",
        config=config.to_dict(),
    )
    return replace(ticket, **more).save(tmp_path / "ticket.json")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    return tmp_path


def small(folder):
    """Cut what a study learns from."""
    path = folder / "study.toml"
    path.write_text(path.read_text().replace("limit = 0 ", "limit = 60"))


@pytest.mark.parametrize(
    ("task", "data", "wanted"),
    [
        ("classification", "mnist5k", ("linear", "accuracy", 1.0, "none", "sgd", 0.1, 0.2)),
        ("segmentation", "cued-seg", ("fcn", "miou", 1.0, "balanced", "sgd", 0.1, 0.0)),
        ("counting", "trees", ("density", "mae", 0.1, "none", "adamw", 0.005, 0.0)),
    ],
)
def test_a_study_is_written_with_what_makes_sense_on_the_target(project, task, data, wanted):
    study = make_transfer(source(project), task=task, data=data)
    assert study.folder == project / "studies" / f"transfer-the-digits-{data}"
    assert Ticket.load(study.folder / "source.json") == Ticket.load(project / "ticket.json")
    config = study.config
    head, metric, margin, weights, optimizer, lr, mixup = wanted
    assert (config.data.name, config.task.name, config.network.head) == (data, task, head)
    assert (config.search.metric, config.evidence.margin) == (metric, margin)
    assert config.task.class_weights == weights
    assert (config.train.optimizer, config.train.lr, config.train.mixup) == (optimizer, lr, mixup)
    assert config.train.label_smoothing == (0.1 if task == "classification" else 0.0)
    assert (config.seed, config.train.batch, config.train.warmup) == (5, 32, 3)
    assert (config.network.width, config.network.stem_stride) == (4, 2)
    assert config.network.blocks == (3, 3, 2)
    assert config.attention.kinds == (SRM,)
    assert (config.retrain.epochs, config.retrain.seeds) == (10, (0, 1, 2, 3))
    text = (study.folder / "study.toml").read_text()
    assert "[transfer]" in text
    assert "[pretrain]" not in text
    assert "sampler" not in text


@pytest.mark.parametrize("of", ["segmentation", "counting"])
@pytest.mark.parametrize(
    ("task", "data", "crop"),
    [("classification", "mnist5k", 0), ("segmentation", "cued-seg", 8), ("counting", "trees", 8)],
)
def test_patches_are_learnt_from_where_there_are_maps_alone(project, of, task, data, crop):
    config = StudyConfig(task=TaskConfig(of), train=TrainConfig(crop=8, batch=8))
    study = make_transfer(source(project, config=config.to_dict()), task=task, data=data)
    assert study.config.train.crop == crop
    if (of, task) == ("counting", "classification"):
        small(study.folder)
        run("check", str(study.folder))


def test_what_is_asked_for_stands_in_study_toml(project):
    study = make_transfer(
        source(project, attention=(SRM, SGE)),
        task="classification",
        data="mnist5k",
        backbone="resnet32",
        width=6,
        stem_stride=1,
        epochs=2,
        seeds=(3, 4, 5),
        study="elsewhere",
    )
    assert study.folder == project / "studies" / "elsewhere"
    network, retrain = study.config.network, study.config.retrain
    assert (network.backbone, network.width, network.stem_stride) == ("resnet32", 6, 1)
    assert network.blocks == ()  # the backbone's own
    assert (retrain.epochs, retrain.seeds, study.config.train.warmup) == (2, (3, 4, 5), 1)
    assert study.config.attention.kinds == (SRM, SGE)


def test_a_network_of_another_family_takes_no_settings_of_this_one(project):
    study = make_transfer(
        source(project), task="classification", data="mnist5k", backbone="resnet18"
    )
    assert study.config.network.backbone_settings == {}


def test_the_same_call_finds_the_study_also_when_it_was_edited(project):
    ticket = source(project)
    made = make_transfer(ticket, task="counting", data="trees")
    text = (made.folder / "study.toml").read_text().replace("epochs = 10", "epochs = 4 ")
    (made.folder / "study.toml").write_text(text)
    found = make_transfer(ticket, task="counting", data="trees")
    assert found.folder == made.folder
    assert found.config.retrain.epochs == 4


@pytest.mark.parametrize(
    "later",
    [
        {"mlflow_run": "0" * 32},
        {"scores": (Score(split="test", value=91.0, seed=0, epochs=3),)},
        {"latency_ms": 3.0, "params": 101},
    ],
)
def test_a_ticket_that_was_retrained_or_logged_again_is_the_same_one(project, later):
    made = make_transfer(source(project), task="counting", data="trees")
    again = make_transfer(source(project, **later), task="counting", data="trees")
    assert again.folder == made.folder
    with pytest.raises(StudyError, match="is a transfer of another ticket"):  # of a new search
        make_transfer(source(project, study_uuid="u2"), task="counting", data="trees")


@pytest.mark.parametrize(
    ("task", "data", "train", "wanted"),
    [
        ("classification", "mnist5k", {"crop": 8}, {"crop": 0}),
        ("segmentation", "cued-seg", {"crop": 8}, {"crop": 8}),
        ("counting", "trees", {"strategy": "graph"}, {"strategy": "auto", "optimizer": "adamw"}),
        ("counting", "trees", {"strategy": "eager"}, {"strategy": "eager"}),
        ("segmentation", "cued-seg", {"strategy": "graph"}, {"strategy": "graph"}),
    ],
)
def test_of_the_source_s_training_goes_along_what_the_task_can_have(
    project, task, data, train, wanted
):
    of = "counting" if train.get("crop") else "classification"
    config = StudyConfig(task=TaskConfig(name=of), train=TrainConfig(**train))
    ticket = source(project, config=config.to_dict())
    made = make_transfer(ticket, task=task, data=data).config.train
    assert {key: getattr(made, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("data", "root", "wanted"),
    [
        ("imagefolder", "there", DataConfig("imagefolder", 0.3, 40, 32, root="there")),
        ("imagefolder", "", DataConfig("imagefolder", 0.3, 40, 32)),
        ("mnist5k", "", DataConfig("mnist5k")),
    ],
)
def test_the_source_s_own_data_are_read_as_it_read_them(project, data, root, wanted):
    read = DataConfig("imagefolder", 0.3, 40, 32, root="here")
    ticket = source(project, config=StudyConfig(data=read).to_dict())
    asked = {"backbone": "resnet32", "root": root}
    assert make_transfer(ticket, task="classification", data=data, **asked).config.data == wanted


def test_tickets_of_an_earlier_form_of_the_study_go_and_other_files_stay(project):
    study = make_transfer(source(project, "1-0-0"), task="classification", data="mnist5k")
    small(study.folder)
    outcome = read_given(sat.open_study(study.folder))
    study.tickets.mkdir(exist_ok=True)
    for role in ("random-3", "random-density", "full-se", "first-k"):
        replace(outcome.best, role=role).save(study.tickets / f"{role}.json")
    outcome.best.save(study.tickets / "mine.json")
    (study.tickets / "full-notes.json").write_text("{}")
    outcome.write_tickets(mlflow_run=None)
    assert sorted(path.stem for path in study.tickets.glob("*")) == [
        *("constant", "full", "full-notes", "mine", "plain", "random-1", "random-2", "ticket")
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": "mnist5k"}, "has data.name = 'cued-digits', and 'mnist5k' is asked for; leave"),
        ({"task": "counting"}, "has task.name = 'classification', and 'counting' is asked"),
        ({"seeds": (7, 8, 9)}, r"has retrain.seeds = \(0, 1, 2, 3\), and \(7, 8, 9\) is asked"),
        ({"backbone": "resnet32"}, "has network.backbone = 'resnet20', and 'resnet32' is asked"),
        ({"width": 9}, "has network.width = 4, and 9 is asked for"),
        ({"init": "weights"}, "has retrain.start = 'scratch', and 'weights' is asked for"),
    ],
)
def test_another_transfer_under_the_same_name_is_refused_once_somebody_edited_the_first(
    project, more, said
):
    asked: dict[str, Any] = {"task": "classification", "data": "cued-digits", "study": "one"}
    ticket = source(project)
    if "init" not in more:  # whose weights are not at hand
        make_transfer(ticket, **asked | more)
    edited = make_transfer(ticket, **asked).folder / "study.toml"  # in the place of the other
    edited.write_text(f"# mine\n{edited.read_text()}")
    with pytest.raises(StudyError, match=said) as caught:
        make_transfer(ticket, **asked | more)
    assert "give this one another name with --study" in str(caught.value)


def test_a_study_of_another_ticket_or_of_a_search_is_refused(project):
    make_transfer(source(project), task="classification", data="mnist5k", study="one")
    with pytest.raises(StudyError, match=r"one is a transfer of another ticket than .*ticket.jso"):
        make_transfer(
            source(project, "010-010-10"), task="classification", data="mnist5k", study="one"
        )
    make_study(project, "tiny")
    with pytest.raises(StudyError, match="tiny holds a study whose ticket is searched for; give"):
        make_transfer(source(project), task="classification", data="mnist5k", study="tiny")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"task": "detection"}, "task is 'detection'; a ticket is transferred to classification"),
        ({"data": "mnist6k"}, "'mnist6k'; did you mean 'mnist5k'"),
        ({"backbone": "resnet21"}, "'resnet21'; did you mean 'resnet20'"),
        ({"seeds": (1, 2)}, "seeds is "),
        ({"init": "imagenet"}, "init is 'imagenet'; write 'scratch' or 'weights'"),
        ({"init": "weights"}, "there are no weights to start from, which are those of the plain"),
    ],
)
def test_what_cannot_be_made_is_one_sentence_and_leaves_no_study(project, asked, said):
    with pytest.raises(SatOptunaError, match=said):
        make_transfer(source(project), **{"task": "classification", "data": "mnist5k"} | asked)
    assert not list(project.glob("studies/*/study.toml"))


def test_controls_are_few_or_full(project):
    with pytest.raises(StudyError, match="controls is 'all'; write 'few' or 'full'"):
        sat.transfer(
            source(project),
            task="classification",
            data="mnist5k",
            controls="all",  # type: ignore[arg-type]
        )
    assert not (project / "studies").exists()


@pytest.mark.parametrize(
    ("scheme", "attention", "what"),
    [
        ("000-000-00", (SRM,), "plain"),
        ("111-111-11", (SRM,), "full"),
        ("22-2", (SRM, SGE), "full"),
    ],
)
def test_plain_and_full_are_not_transferred(project, scheme, attention, what):
    ticket = source(project, scheme, attention)
    said = error("transfer", str(ticket), "--task", "counting", "--data", "trees")
    words = " ".join(said.split())
    assert f"Error: ticket {scheme} is the {what} network, which is among the controls of" in words
    assert "it is not transferred; give a ticket with attention in some of its blocks" in words
    assert not (project / "studies").exists()


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("0,one,2", "'0,one,2' is no list of seeds; give whole numbers such as 0,1,2,3"),
        ("0;1;2", "'0;1;2' is no list of seeds"),
        ("-1,2,3", "'-1,2,3' is no list of seeds"),
    ],
)
def test_seeds_are_numbers_between_commas(project, seeds, said):
    options = ("--task", "counting", "--data", "trees", "--seeds", seeds)
    assert said in " ".join(error("transfer", "t.json", *options, code=2).split())


def test_a_constant_control_is_not_transferred(project):
    control = sat.constant_ticket(Ticket.load(source(project)))
    control.save(project / "constant.json")
    with pytest.raises(StudyError, match="is a constant control, whose gates look at nothing"):
        make_transfer(project / "constant.json", task="classification", data="mnist5k")


@pytest.mark.parametrize("role", ["random-density", "random-2", "random-best", "first-k"])
def test_a_control_that_no_search_found_is_not_transferred(project, role):
    with pytest.raises(StudyError, match=f"is the control {role}, which no search found, and wou"):
        make_transfer(source(project, role=role), task="classification", data="mnist5k")
    assert not (project / "studies").exists()


@pytest.mark.parametrize("role", ["searched", "candidate"])
def test_what_a_search_found_is_transferred(project, role):
    assert make_transfer(source(project, role=role), task="counting", data="trees").given


@pytest.mark.parametrize(
    ("scheme", "edits", "said"),
    [
        ("100-010-10", {'"resnet20"': '"resnet18"'}, "a ticket whose stages do not fit the trunk"),
        ("10-01", {"blocks = [2, 2]": "blocks = []"}, "scheme 10-01 is of 2 stages and the netw"),
        (
            "100-000-00",
            {"blocks = [3, 3, 2]": "blocks = [1, 1, 1]"},
            "ticket 100-000-00 becomes 0-0-0 in this network, which is the plain network",
        ),
        ("100-010-10", {'"srm"]': '"se"]'}, r"attention.kinds is \['se'\], and the ticket's dig"),
        ("100-010-10", {'"source.json"': '"x.json"'}, "cannot read ticket .*x.json: No such file"),
        ("100-010-10", {'"fcn"': '"linear"'}, "the network returns shape "),
    ],
)
def test_check_names_what_does_not_fit(project, scheme, edits, said):
    study = make_transfer(source(project, scheme), task="segmentation", data="cued-seg")
    text = (study.folder / "study.toml").read_text()
    for old, new in {"stem_stride = 2": "stem_stride = 1", **edits}.items():
        assert old in text
        text = text.replace(old, new)
    if "resnet18" in text:  # which has no such settings
        for key in ("width = 4", "stem_stride = 1", "blocks = [3, 3, 2]", 'head = "fcn"'):
            text = text.replace(key, f"# {key}")
    (study.folder / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        sat.open_study(study.folder).check()
    assert not (study.folder / "work" / "retrain").exists()


def test_a_broken_source_is_a_fault(project):
    study = make_transfer(source(project), task="classification", data="cued-digits")
    whole = (study.folder / "source.json").read_text()
    (study.folder / "source.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"transfer.ticket: .*source.json is not complete JSON"):
        study.check()


@pytest.mark.parametrize(
    ("scheme", "more", "wanted", "random"),
    [
        ("100-010-10", {}, "100-010-10", 3),
        ("100-010-10", {"backbone": "resnet32", "width": 4}, "11000-00100-11100", 3),
        ("1-0-0", {"width": 6}, "1-0-0", 2),  # there are no more others
    ],
)
def test_the_new_ticket_says_where_it_is_from(project, scheme, more, wanted, random):
    study = make_transfer(source(project, scheme), task="classification", data="mnist5k", **more)
    small(study.folder)
    study = sat.open_study(study.folder)
    assert f"ticket {wanted}; next: sat-optuna run" in " ".join(
        run("check", study.name).stdout.split()
    )
    outcome = read_given(study)
    assert list(outcome.schemes) == ["ticket", "plain", "full", "constant"] + [
        f"random-{number}" for number in range(1, random + 1)
    ]
    made = outcome.ticket("ticket")
    assert str(made.scheme) == wanted
    assert (made.dataset, made.classes, made.input_shape) == ("mnist5k", 10, (1, 28, 28))
    assert (made.study, made.trial) == (study.name, None)
    for ticket in outcome.tickets.values():
        assert ticket.source is not None
        assert (ticket.source.study, ticket.source.study_uuid) == ("the digits", "u1")
        assert (str(ticket.source.scheme), ticket.source.dataset) == (scheme, "cued-digits")
        assert ticket.source.backbone == "resnet20"
        assert ticket.source.rule.startswith("nearest" if wanted != scheme else "the same scheme")
        assert Ticket.from_json(ticket.to_json()) == ticket
    densities = {len(s.choices) - s.connections for r, s in outcome.schemes.items() if "ran" in r}
    assert densities == {len(made.scheme.choices) - made.scheme.connections}
    assert outcome.measure.name == "accuracy"


def test_the_ticket_is_carried_over_once_and_read_again_without_networks(project):
    study = make_transfer(source(project), task="classification", data="mnist5k")
    small(study.folder)
    first = ticket_here(sat.open_study(study.folder))
    again = sat.open_study(study.folder)
    assert ticket_here(again) == first
    assert "parts" not in vars(again)
    path = study.folder / "study.toml"
    path.write_text(path.read_text().replace("epochs = 10", "epochs = 11"))
    changed = ticket_here(sat.open_study(study.folder))
    assert changed.config["retrain"]["epochs"] == 11
    assert changed.study_uuid == first.study_uuid  # the study is known by it


@pytest.mark.parametrize("changed", ["the ticket", "the epochs and back", "given.json"])
def test_networks_of_other_data_are_never_put_beside_those_of_these(project, changed):
    """The bytes of the data are compared again whenever the ticket is carried over anew."""
    herd = write_points(project / "herd", 8)
    study = make_transfer(source(project), task="counting", data="pointfolder", root=herd)
    outcome = read_given(sat.open_study(study.folder))
    job = next(job for job in outcome.jobs if str(job.scheme) == "000-000-00")
    job.result_path.parent.mkdir(parents=True, exist_ok=True)
    job.weights_path.write_bytes(b"weights")
    result = RetrainResult(job.scheme, job.seed, float("nan"), 1, (), metric=7.5)
    write_result(job, result)
    outcome.add(result)
    assert len(read_given(sat.open_study(study.folder)).results) == 1

    def again():
        toml, given = study.folder / "study.toml", study.work / "given.json"
        if changed == "the ticket":
            source(study.folder, "010-010-10").rename(study.folder / "source.json")
        elif changed == "given.json":
            given.unlink()
        else:
            text = toml.read_text()
            toml.write_text(text.replace("epochs = 10", "epochs = 11"))
            ticket_here(sat.open_study(study.folder))
            toml.write_text(text)
        return read_given(sat.open_study(study.folder))

    assert len(again().results) == 1  # of the same data
    source(study.folder).rename(study.folder / "source.json")
    ticket_here(sat.open_study(study.folder))
    lines = (herd / "points.csv").read_text().splitlines()
    (herd / "points.csv").write_text("\n".join(lines[:-9]))
    with pytest.raises(DataError, match="data set pointfolder is not the one that networks of st"):
        again()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pretrain", "nothing to pretrain"),
        ("search", "nothing to search"),
        ("enumerate", "no supernet to score schemes in"),
        ("trials", "no search to look at"),
        ("ticket", "no search to look at"),
        ("dashboard", "no search to look at"),
    ],
)
def test_steps_of_a_search_say_that_the_ticket_is_given(project, command, said):
    study = make_transfer(source(project), task="classification", data="mnist5k", study="one")
    message = error(command, "one")
    words = " ".join(message.split())
    assert "Error: the ticket of study 'one' is given, source.json of [transfer], so" in words
    assert f"there is {said}; run: sat-optuna run one, or look at" in words
    assert not (study.folder / "study.db").exists()


def test_a_study_brings_the_plugins_that_register_its_module(project):
    home = make_study(project, "own", '[plugins]\nmodules = ["gates.py"]\n')
    (home / "gates.py").write_text(
        "from sat_optuna.attention import ATTENTION\n"
        "from sat_optuna.attention.se import SE\n"
        "ATTENTION.add('my-gate', SE)\n"  # twice it would be refused
    )
    (home / "tickets").mkdir()
    spec = AttentionSpec(kind="my-gate")
    source(home / "tickets", attention=(spec,))
    with pytest.warns(match="running .*gates.py"):
        study = make_transfer(
            home / "tickets" / "ticket.json", task="classification", data="mnist5k"
        )
    assert (study.folder / "gates.py").read_text() == (home / "gates.py").read_text()
    assert study.config.plugins.modules == ("gates.py",)
    assert study.config.attention.kinds == (spec,)
    ATTENTION.remove("my-gate")  # as a process that has run nothing yet


def test_a_ticket_with_a_source_is_read_strictly(project):
    study = make_transfer(source(project), task="classification", data="mnist5k")
    small(study.folder)
    document = json.loads(ticket_here(sat.open_study(study.folder)).to_json())
    for change, said in (
        ({"scheme": "12x!"}, "has '!'"),
        ({"dataset": 3}, "dataset of source is 3; write a text"),
        ({"more": 1}, "source has the unknown keys more"),
    ):
        text = json.dumps(document | {"source": document["source"] | change})
        with pytest.raises(SatOptunaError, match=said):
            Ticket.from_json(text)
    del document["source"]["rule"]
    with pytest.raises(SatOptunaError, match="source lacks the keys rule"):
        Ticket.from_json(json.dumps(document))
