"""The command line as a stranger meets it: help, names, and every kind of bad input."""

import json
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sat_optuna.cli import _COMMANDS, main
from sat_optuna.cli import sat_optuna as group
from tests.studies import STUDY, environment, make_study, sat_optuna


def run(*arguments, code=0):
    done = CliRunner().invoke(group, [*arguments], auto_envvar_prefix="SAT_OPTUNA")
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(*arguments, code=1):
    """The one sentence a command ends with, which never is a traceback."""
    done = run(*arguments, code=code)
    assert "Traceback" not in done.output
    assert done.stdout == ""
    return done.stderr


def test_help_names_every_command_and_imports_nothing_heavy():
    program = (
        "import sys; from sat_optuna.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'numpy', 'scipy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    for name in _COMMANDS:
        assert f"\n  {name} " in printed
    assert "\n  sat-optuna run mine   " in printed  # a line each
    assert "\\b" not in printed


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_each_command_has_help_with_an_example(name):
    printed = run(name, "--help").output
    commands = {"data": ["data", "get"], "bench": ["bench", "training"]}
    if name in commands:
        printed = run(*commands[name], "--help").output
    assert f"Example: sat-optuna {name}" in printed


def test_new_writes_a_study_that_has_no_fault(project):
    assert "then: sat-optuna check mine" in run("new", "mine").stdout
    written = (project / "studies" / "mine" / "study.toml").read_text()
    assert 'name = "mnist5k"' in written
    printed = run("check", "mine").stdout
    assert "has no fault: 9 blocks in stages (3, 3, 3), 512 schemes" in printed
    assert "exists already; edit it, or choose another name" in error("new", "mine")
    assert (project / "studies" / "mine" / "study.toml").read_text() == written


def test_check_shows_all_faults_at_once(project):
    text = STUDY.replace("width = 4", 'width = 4\nbackbone = "resnet200"').replace(
        "[retrain]", '[attention]\nkinds = ["se", "sgee"]\n[retrain]\nseedz = [1]'
    )
    make_study(project, text=text.replace("limit = 300", 'name = "minst5k"\nlimt = 3'))
    message = error("check", "tiny")
    for part in (
        "5 faults",
        "data.name is 'minst5k'; did you mean 'mnist5k'?",
        "unknown key 'data.limt'; did you mean 'limit'?",
        "network.backbone is 'resnet200'; did you mean 'resnet20'?",
        "'sgee'; did you mean 'sge'?",
        "unknown key 'retrain.seedz'; did you mean 'seeds'?",
    ):
        assert part in message


def test_check_shows_what_cannot_be_built(project):
    text = STUDY + (
        '[attention]\nkinds = ["se", "sge", "dia"]\nse = { reductio = 4 }\nsge = { groups = 8 }\n'
        'dia = { sharing = "block" }\n'
    )
    make_study(project, text=text)
    message = error("check", "tiny")
    assert "se has no setting 'reductio'; did you mean 'reduction'?" in message
    assert "sge has groups = 8, which does not divide 4 channels" in message
    assert "dia has sharing = 'block'; it allows 'stage' only" in message


def test_check_sees_that_images_are_too_small_for_a_module(project):
    make_study(project, text=STUDY + '[attention]\nkinds = ["spa"]\n')
    assert (
        "images of 1x28x28 come to stage 3 of resnet20 with 2 pixels a side and spa needs 4"
        in error("check", "tiny")
    )


def test_check_sees_that_images_are_too_small_for_the_network(project):
    make_study(project, text='[network]\nbackbone = "timm:convnext_atto"\n')
    assert "images of 1x28x28 do not go through timm:convnext_atto" in error("check", "tiny")


def test_an_unknown_study_offers_the_nearest(project):
    make_study(project)
    assert "no study 'tinny'" in error("check", "tinny")
    assert "did you mean 'tiny'?" in error("run", "tinny")


def test_a_study_may_be_given_by_its_file(project):
    make_study(project)
    assert "has no fault" in run("check", "studies/tiny/study.toml").output


def test_ls(project):
    names = json.loads(run("ls", "modules", "--format", "json").stdout)
    ours = [row for row in names if ":" not in row["name"]]
    assert len(ours) >= 11
    assert {row["name"]: row["params_at_64"] for row in ours}["se"] == 580
    assert all(row["paper"] and row["sharing"] for row in names)
    assert "timm:eca" in [row["name"] for row in names]
    assert not [row for row in names if row["name"].startswith("constant:")]
    assert "'constant:KIND', a learnt factor" in " ".join(run("ls", "modules").stderr.split())
    assert "resnet164" in run("ls", "backbones").stdout
    assert run("ls", "datasets", "--format", "csv").stdout.splitlines()[0] == "name"
    assert "make one with: sat-optuna new NAME" in run("ls", "studies").stderr
    make_study(project, name="a-study-" + "x" * 120)
    assert "x" * 120 in run("ls", "studies").stdout  # neither cut nor folded


def test_data_get(project):
    assert "mnist5k is in" in run("data", "get", "mnist5k").stdout
    assert "did you mean 'mnist5k'?" in error("data", "get", "mnist")


def test_missing_data_say_what_to_put_where(project):
    text = STUDY.replace("[data]", '[data]\nname = "imagefolder"\nroot = "nowhere"\nsize = 8')
    make_study(project, text=text.replace("limit = 300", "limit = 0"))
    message = error("pretrain", "tiny")
    assert "nowhere" in message
    assert "train" in message


def test_a_checkpoint_of_another_study_is_refused(project):
    from sat_optuna.config.config import decided
    from sat_optuna.pipeline.done import Done
    from sat_optuna.pipeline.folder import open_study
    from sat_optuna.training.checkpoint import save_checkpoint

    folder = make_study(project)
    path = folder / "work" / "supernet.safetensors"
    save_checkpoint(path, {}, {"fingerprint": "other", "history": []})
    before = path.read_bytes()
    for name in ("pretrain", "search", "run"):
        assert "is there and no record of what decided it" in error(name, "tiny")
    assert path.read_bytes() == before
    study = open_study(folder)
    study.records.write("pretrain", Done(decided(study.config, "pretrain")))
    assert "belongs to another configuration" in error("pretrain", "tiny")
    path.write_bytes(before[:-20])
    assert "cannot read checkpoint" in error("pretrain", "tiny")


def test_a_port_in_use(project):
    from sat_optuna.config.config import StudyConfig
    from sat_optuna.search.storage import open_storage
    from sat_optuna.search.study import build_sampler, create_study

    folder = make_study(project)
    create_study(
        open_storage(folder / "study.db"),
        "tiny",
        config=StudyConfig(),
        sampler=build_sampler("random", seed=0, batch=1),
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        message = error("dashboard", "tiny", "--port", port)
        assert port in message
        assert "--port" in message


def test_two_processes_cannot_write_one_study(project):
    from filelock import FileLock

    folder = make_study(project)
    (folder / "work").mkdir()
    with FileLock(folder / "work" / "lock"):
        assert "is being run by another process" in error("pretrain", "tiny")


def test_environment_sets_options(project):
    make_study(project)
    done = sat_optuna("search", "tiny", cwd=project, code=2, SAT_OPTUNA_SEARCH_TRIALS="many")
    assert "many" in done.stderr


def test_debug_shows_where_an_error_arose(project):
    done = subprocess.run(
        [sys.executable, "-m", "sat_optuna", "--debug", "check", "none"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_doctor_reports_versions_and_stores(project):
    make_study(project)
    rows = json.loads(run("doctor", "--format", "json").stdout)
    found = {row["subject"]: row for row in rows}
    assert found["torch"]["state"] == "ok"
    assert "not searched yet" in found["study tiny"]["finding"]
    assert "mlflow.db" in found["mlflow store"]["finding"]


def test_doctor_looks_at_the_studies_it_is_given(project):
    for name in ("tiny", "other"):
        make_study(project, name=name)
    rows = json.loads(run("doctor", "studies/other", "--format", "json").stdout)
    assert [row["subject"] for row in rows if row["subject"][:6] == "study "] == ["study other"]
    assert "no study 'nope'" in run("doctor", "nope", code=1).stderr


def test_signals_are_handled_as_before_afterwards(capsys):
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["ls", "datasets"]) == 0
    assert main(["ls", "nothing"]) == 2
    assert [signal.getsignal(number) for number in numbers] == before
    assert "mnist5k" in capsys.readouterr().out


def test_an_interrupt_that_python_drops_is_heard_at_the_next_step():
    """An exception within a destructor is printed and forgotten."""
    program = """
import os, signal, time, click
from sat_optuna import cli
from sat_optuna.events import Event

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Drops:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

@click.command()
@click.pass_obj
def steps(console):
    with console.following() as on_event:
        for step in range(3):
            if step == 1:
                Drops()
            print(step, flush=True)
            on_event(Event(step="steps", done=step + 1, total=3))

cli.sat_optuna.get_command = lambda ctx, name: steps
raise SystemExit(cli.main(["steps"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "Exception ignored in" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (130, "0\n1\n"), done.stderr
    assert "Interrupted; the same command" in done.stderr
