"""Limits and replicates of study.toml, as a user meets them."""

import json
import subprocess
import sys

import pytest

from tests.studies import STUDY, environment, make_study, sat_optuna, trials


def study_of(project, extra, name="tiny"):
    return make_study(project, name, STUDY.replace("[search]\n", f"[search]\n{extra}\n"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.mark.slow
def test_a_search_within_limits_proposes_nothing_above_them(project):
    """The limits are below what half of all schemes cost, so chance would not do it."""
    study_of(project, "max_connections = 3\nmax_params = 11300")
    sat_optuna("pretrain", "tiny", cwd=project)
    sat_optuna("search", "tiny", "--no-mlflow", "--trials", "13", cwd=project)
    rows = trials(project)
    assert len(rows) == 13
    assert max(row["scheme"].count("1") for row in rows) == 3
    assert max(row["params"] for row in rows) <= 11300
    assert len({row["scheme"] for row in rows}) == 13


@pytest.mark.slow
def test_fixed_blocks_are_in_every_scheme_and_the_free_ones_searched_within_the_limits(project):
    fixed = 'fixed = { "s1.b00" = "se", "s3.b01" = "none", s2.b00 = "se" }\nmax_connections = 4'
    study_of(project, fixed, "fixed")
    sat_optuna("pretrain", "fixed", cwd=project)
    sat_optuna("search", "fixed", "--no-mlflow", "--trials", "7", cwd=project)
    schemes = [row["scheme"] for row in trials(project, "fixed")]
    assert set(schemes) == {  # at most two of the three free blocks
        f"1{a}-1{b}-{c}0" for a in "01" for b in "01" for c in "01" if (a + b + c) != "111"
    }


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        (
            '{ "s4.b00" = "se" }',
            "search.fixed names 's4.b00', which is no block of resnet20; did ",
        ),
        ('{ block = "se" }', "names 'block', which is no block of resnet20; its 6 blocks are s1."),
        (
            '{ s1 = { b00 = "se", b01 = "se" }, s2 = { b00 = "se", b01 = "se" }, '
            's3 = { b00 = "none", b01 = "se" } }',
            "search.fixed names all 6 blocks, so that nothing is left to search; leave one free",
        ),
        (
            '{ s1.b00 = "se", s1.b01 = "se" }\nmax_connections = 1',
            "no scheme with the fixed choices {'s1.b00': 'se', 's1.b01': 'se'} keeps the budget",
        ),
    ],
)
def test_blocks_that_cannot_be_fixed_are_one_sentence_before_anything_is_trained(
    tmp_path, fixed, said
):
    study_of(tmp_path, f"fixed = {fixed}")
    done = sat_optuna("check", "tiny", cwd=tmp_path, code=1)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_limits_that_nothing_keeps_are_one_sentence(project):
    study_of(project, "max_macs = 7", "none")
    for command in ("search", "check", "run"):
        done = sat_optuna(command, "none", cwd=project, code=1)
        assert "budget 'macs' of 7 allows nothing: the cheapest scheme costs" in done.stderr
        assert "Traceback" not in done.stderr
        *begun, _ = done.stderr.strip().splitlines()
        assert all(line.endswith(": getting ready") for line in begun)
    assert not list((project / "studies" / "none" / "work").glob("*.safetensors"))


@pytest.mark.slow
def test_replicates_lead_to_the_ticket_that_all_trials_speak_for(project):
    study_of(project, 'objective = "train"\nepochs = 1\nreplicates = 3', "again")
    sat_optuna("search", "again", "--no-mlflow", "--trials", "12", cwd=project)
    sat_optuna("ticket", "again", cwd=project)
    (ticket,) = (project / "studies" / "again" / "tickets").glob("trial-*.json")
    assert json.loads(ticket.read_text())["scheme"] in {
        row["scheme"] for row in trials(project, "again")
    }


@pytest.mark.slow
def test_a_supernet_and_its_search_go_on_whether_networks_are_compiled_or_not(project):
    folder = study_of(project, "", "compiled")
    sat_optuna("pretrain", "compiled", cwd=project)
    sat_optuna("search", "compiled", "--no-mlflow", "--trials", "4", cwd=project)
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("[train]\n", "[train]\ncompile = true\n"))
    assert "done already" in sat_optuna("pretrain", "compiled", cwd=project).stdout
    sat_optuna("search", "compiled", "--no-mlflow", "--trials", "8", cwd=project)
    assert len(trials(project, "compiled")) == 8


@pytest.mark.slow
def test_check_says_where_nothing_can_be_compiled(project):
    folder = study_of(project, "", "uncompiled")
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("[train]\n", "[train]\ncompile = true\n"))
    # A process of its own: torch reads these once, when it is imported.
    where = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(project / "inductor")}
    done = subprocess.run(
        [sys.executable, "-m", "sat_optuna", "check", "uncompiled"],
        cwd=project,
        env=environment(**where),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "torch.compile does not work here" in done.stderr
    assert "or set train.compile to false" in done.stderr
