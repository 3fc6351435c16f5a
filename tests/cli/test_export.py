"""`sat-optuna export` as a user runs it, on a study that has been retrained."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sat_optuna.attention import default_spec
from sat_optuna.cli import main
from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.config import fingerprint
from sat_optuna.evaluate import calibration_batches
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    retrain_fingerprint,
    write_result,
)
from sat_optuna.evidence.retrain import retrain
from sat_optuna.export.fold import fold_constant
from sat_optuna.export.weights import load_ticket, load_weights, read_ticket
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.outcome import networks_step
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Score, Ticket
from sat_optuna.training.checkpoint import load_tensors, read_record, save_checkpoint
from sat_optuna.training.loop import Checkpoint
from tests.studies import make_study, sat_optuna
from tests.tickets import leftovers

SCHEME = Scheme.parse("10-01-10")
FULL = Scheme.uniform(SCHEME.stages, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study whose ticket and full network are retrained with seed 0."""
    folder = make_study(tmp_path_factory.mktemp("export"))
    study = open_study(folder)
    config = study.config
    ticket = Ticket(
        role="ticket",
        scheme=SCHEME,
        backbone=config.network.backbone,
        backbone_settings=config.network.backbone_settings,
        attention=config.attention.kinds,
        classes=10,
        input_shape=(1, 28, 28),
        dataset="mnist5k",
        dataset_fingerprint="abc",
        seed=0,
        scores=(Score(split="test", value=50.0, seed=0, epochs=1),),
        params=1,
        macs=1,
        config=config.to_dict(),
    )
    fingerprint = retrain_fingerprint(config)
    for scheme in (SCHEME, FULL):
        job = RetrainJob(scheme, 0, config, study.work / "retrain" / fingerprint)
        retrain(
            replace(ticket, scheme=scheme),
            study.parts.data,
            epochs=1,
            seed=0,
            config=config.train,
            checkpoint=Checkpoint(job.weights_path, fingerprint),
        )
        write_result(job, RetrainResult(scheme, 0, 50.0, 1000, ()))
        made = {path.name: sha256_of(path) for path in (job.result_path, job.weights_path)}
        study.records.add(networks_step(config), made)
    ticket.save(folder / "tickets" / "ticket.json")
    return folder


@pytest.fixture
def study(trained, tmp_path):
    """A copy of it, to be written to."""
    return shutil.copytree(trained, tmp_path / "studies" / "tiny")


def checkpoint_of(study, scheme=SCHEME):
    (path,) = study.glob(f"work/retrain/*/{scheme}.seed0.safetensors")
    return path


def run(*arguments, code=0):
    done = CliRunner().invoke(group, ["export", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def error(*arguments, code=1):
    """The one sentence it ends with, which never is a traceback."""
    done = run(*arguments, code=code)
    assert "Traceback" not in done.output
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("to", "more", "suffix", "limit"),
    [
        ("safetensors", (), ".safetensors", 0),
        ("torch-export", (), ".pt2", 0),
        ("onnx", ("--opset", 18), ".onnx", 1e-5),
    ],
)
def test_the_two_lines_it_prints_run_the_file(to, more, suffix, limit, study):
    ticket = study / "tickets" / "ticket.json"
    done = run(ticket, "--to", to, *more)
    assert done.stderr == f"writing {to} and comparing it\n"
    printed = done.stdout
    out = study / "exports" / f"ticket-10-01-10{suffix}"
    assert leftovers(study / "exports") == [out.name]
    assert f"wrote {out}: {to}" + (", opset 18" if more else "") in printed
    assert f"{out.stat().st_size:,} bytes" in printed
    assert "at batch 1, " in printed
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {"images": x.numpy()}
    first, second, *use = printed.splitlines()
    assert first.startswith("largest difference to the network, over its largest logit: ")
    assert second.endswith(" bytes; use:")
    assert len(use) == 2
    lines = "\n".join(line.strip() for line in use)
    exec(lines, names)  # what a user would paste
    with torch.no_grad():
        got = torch.as_tensor(names["logits"] if to == "onnx" else names["network"](x))
        wanted = load_weights(Ticket.load(ticket), checkpoint_of(study))(x)
    assert (got - wanted).abs().max() <= limit * wanted.abs().max()


def test_an_exported_file_is_a_ticket_too(study):
    ticket, out = study / "tickets" / "ticket.json", study.parent / "mine.safetensors"
    run(ticket, "--to", "safetensors", "--out", out)
    again = out.with_stem("again")
    run(out, "--to", "safetensors", "--out", again)
    assert load_tensors(again).keys() == load_tensors(out).keys()
    message = error(out, "--to", "safetensors", code=2)
    assert "is what was given; name another file with --out" in message
    assert "--seed chooses among" in error(out, "--to", "onnx", "--seed", 0, code=2)
    run(ticket, "--to", "safetensors", "--weights", out)


def test_weights_of_ones_own(study):
    ticket = shutil.copy(study / "tickets" / "ticket.json", study.parent)
    weights = checkpoint_of(study)
    message = error(ticket, "--to", "onnx")
    assert "does not lie in the tickets/ of a study" in message
    assert "--weights FILE" in message
    run(ticket, "--to", "safetensors", "--weights", weights)
    held = read_ticket(study.parent / "ticket.safetensors")
    assert held == replace(
        Ticket.load(study.parent / "ticket.json"), scores=()
    )  # nothing was measured of these
    message = error(ticket, "--to", "onnx", "--weights", weights, "--seed", 1, code=2)
    assert "--seed chooses among a study's own weights; leave it out" in message


def test_the_memory_format_of_the_training_is_kept(study):
    weights = checkpoint_of(study)
    tensors = {
        f"model.{k}": v
        for k, v in load_weights(Ticket.load(study / "tickets" / "ticket.json"), weights)
        .state_dict()
        .items()
    }
    save_checkpoint(
        weights, tensors, read_record(weights) | {"memory_format": "torch.channels_last"}
    )
    opened = open_study(study)
    opened.records.add(networks_step(opened.config), {weights.name: sha256_of(weights)})
    run(study / "tickets" / "ticket.json", "--to", "safetensors")
    network = load_ticket(study / "exports" / "ticket-10-01-10.safetensors")
    assert not network.get_parameter("stages.0.0.conv2.weight").is_contiguous()


def test_weights_that_are_not_there_say_what_to_run(study):
    ticket = study / "tickets" / "ticket.json"
    message = error(ticket, "--to", "onnx", "--seed", 1)
    assert "scheme 10-01-10 was not retrained here with seed 1; run: sat-optuna retrain" in message
    other = replace(Ticket.load(ticket), scheme=Scheme.parse("01-01-01"))
    message = error(other.save(study / "tickets" / "trial-3.json"), "--to", "onnx")
    assert "scheme 01-01-01 was not retrained here with seed 0" in message
    assert "or give weights with --weights FILE" in message
    assert not (study / "exports").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("batch = 32", "batch = 16"),
        lambda text: text.replace("seeds = [0, 1, 2]", "seeds = [5, 6, 7]"),
        lambda text: text.replace("epochs = 1", "epochs = 3") + '[attention]\nkinds = ["sge"]\n',
        lambda text: "this is no TOML any more",
    ],
    ids=["batch", "seeds", "kinds and epochs", "no TOML"],
)
def test_a_finished_ticket_is_exported_whatever_became_of_study_toml(study, edit):
    ticket, toml = study / "tickets" / "ticket.json", study / "study.toml"
    run(ticket, "--to", "safetensors")
    out = study / "exports" / "ticket-10-01-10.safetensors"
    before = out.read_bytes()
    out.unlink()
    toml.write_text(edit(toml.read_text()))
    run(ticket, "--to", "safetensors")
    assert out.read_bytes() == before


def test_what_was_never_retrained_names_the_study_toml_that_is_needed(study):
    toml = study / "study.toml"
    toml.write_text(toml.read_text().replace("batch = 32", "batch = 16"))
    message = error(study / "tickets" / "ticket.json", "--to", "onnx", "--seed", 1)
    assert "restore its study.toml (train.batch: 32 is stored, 16 is given) and run: " in message
    message = error(study / "tickets" / "ticket.json", "--to", "onnx", "--fold-constant")
    assert "another study.toml (train.batch: 32 is stored, 16 is given), which says" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda study: flip(checkpoint_of(study)), "its bytes have changed since; bring work/"),
        (
            lambda study: shutil.copy(checkpoint_of(study, FULL), checkpoint_of(study)),
            "its bytes have changed since; bring work/",
        ),
        (
            lambda study: shutil.rmtree(study / "work" / "done"),
            "no record says that it is; bring work/ back",
        ),
    ],
    ids=["a flipped bit", "other weights", "no records"],
)
def test_weights_are_known_by_their_bytes(study, change, words):
    change(study)
    message = error(study / "tickets" / "ticket.json", "--to", "onnx")
    assert "is not what the retraining made: " in message
    assert words in message


def flip(path, at=-1):
    held = bytearray(path.read_bytes())
    held[at] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("place", [b'"value', b'"scheme', b"0", None], ids=str)
def test_an_exported_file_with_a_flipped_bit_is_not_used(study, place):
    run(study / "tickets" / "ticket.json", "--to", "safetensors")
    out = study / "exports" / "ticket-10-01-10.safetensors"
    content = out.read_bytes()
    place = place and place.replace(b'"', b'\\"')  # JSON within JSON
    flip(out, -1 if place is None else content.index(place) + len(place) - 1)
    for arguments in (["show", "--no-latency"], ["export", "--to", "onnx"]):
        done = CliRunner().invoke(group, [arguments[0], str(out), *arguments[1:]])
        assert done.exit_code == 1, done.output
        assert f"{out}" in done.stderr
        assert "Traceback" not in done.output
    assert leftovers(study / "exports") == [out.name]


def test_weights_of_another_network_are_refused(study):
    message = error(
        study / "tickets" / "ticket.json", "--to", "onnx", "--weights", checkpoint_of(study, FULL)
    )
    assert "of scheme 10-01-10: by its name it is the retraining of 11-11-11; give" in message
    renamed = shutil.copy(checkpoint_of(study, FULL), study.parent / "renamed.safetensors")
    message = error(study / "tickets" / "ticket.json", "--to", "onnx", "--weights", renamed)
    words = "does not hold the weights of scheme 10-01-10: nothing here is called stages.0.1.att"
    assert words in message
    message = error(study / "tickets" / "ticket.json", "--to", "onnx", "--weights", study)
    assert f"{study} is a folder; give a file in it" in message
    assert not (study / "exports").exists()


def test_the_supernet_is_no_network_of_the_ticket(study):
    ticket = study / "tickets" / "ticket.json"
    weights = checkpoint_of(study)
    tensors = load_tensors(weights)  # as of modules without tensors, whose names tell nothing
    ours = {"fingerprint": fingerprint(open_study(study).config, "pretrain")}
    renamed = save_checkpoint(study.parent / "mine.safetensors", tensors, ours)
    by_name = save_checkpoint(study.parent / "supernet.safetensors", tensors, {})
    for path in (renamed, by_name):
        message = error(ticket, "--to", "onnx", "--weights", path)
        assert f"{path} holds the weights of the supernet, not of scheme 10-01-10" in message
    message = error(ticket, "--to", "onnx", "--fold-constant", "--weights", by_name)
    assert "of the supernet, not of scheme 11-11-11" in message


def test_an_export_of_another_scheme_is_refused_and_of_this_one_keeps_its_scores(study):
    ticket = study / "tickets" / "ticket.json"
    run(ticket, "--to", "safetensors")
    own = study / "exports" / "ticket-10-01-10.safetensors"
    out = study.parent / "again.safetensors"
    run(ticket, "--to", "safetensors", "--weights", own, "--out", out)
    assert read_ticket(out) == Ticket.load(ticket)
    run(ticket, "--to", "safetensors", "--fold-constant")
    folded = study / "exports" / "ticket-10-01-10-folded.safetensors"
    run(ticket, "--to", "safetensors", "--weights", folded, "--out", out)
    assert read_ticket(out).scores == ()
    other = replace(Ticket.load(ticket), scheme=FULL).save(study / "tickets" / "full.json")
    message = error(other, "--to", "safetensors", "--weights", own)
    assert "of another network, with scheme 10-01-10 and not 11-11-11; give those" in message


def test_a_wrong_name_is_refused_before_anything_is_read(tmp_path):
    message = error(tmp_path / "none.json", "--to", "onnx", "--out", "x.pt2")
    assert "x.pt2 shall be onnx; give a name that ends in .onnx" in message
    message = error(tmp_path / "none.json", "--to", "safetensors", "--opset", 18)
    assert "opset 18 given with safetensors, which has none" in message


@pytest.mark.slow
def test_an_export_of_a_plugin_is_read_in_its_study_and_says_so_elsewhere(study, tmp_path):
    (study / "mine.py").write_text(
        "from sat_optuna.backbones import add_backbone\n"
        'add_backbone("mine", "sat_optuna.backbones.cifar_resnet:basic_resnet", stages=(2, 2, 2))'
    )
    toml = study / "study.toml"
    toml.write_text(toml.read_text() + '[plugins]\nmodules = ["mine.py"]\n')
    ticket = study / "tickets" / "ticket.json"
    run(ticket, "--to", "safetensors", "--weights", checkpoint_of(study))
    path = study / "exports" / "ticket-10-01-10.safetensors"
    record = read_record(path)
    record["ticket"]["backbone"] = "mine"
    save_checkpoint(path, load_tensors(path), record)
    project = study.parents[1]
    sat_optuna("export", str(path), "--to", "torch-export", cwd=project)
    assert path.with_suffix(".pt2").is_file()
    shown = sat_optuna("show", str(path), "--no-latency", cwd=project).stdout
    assert "ticket 10-01-10 of mine" in shown
    moved = shutil.copy(path, project / "moved.safetensors")
    for arguments in (("export", str(moved), "--to", "onnx"), ("show", str(moved))):
        said = sat_optuna(*arguments, cwd=project, code=1).stderr
        assert "no backbone 'mine'" in said
        assert "put the file back into the tickets/ folder of its study, whose study.toml" in said
    toml.write_text(toml.read_text().replace('"mine.py"', ""))
    said = sat_optuna("show", str(path), cwd=project, code=1).stderr
    assert f"name the plugin that registers it under [plugins] of {toml.resolve()}" in said


def test_folding_keeps_the_first_kind_alone(study):
    path = study / "tickets" / "ticket.json"
    ticket = Ticket.load(path)
    several = (*ticket.attention, default_spec("eca"))
    replace(ticket, attention=several, scheme=Scheme.parse("10-02-10")).save(path)
    message = error(path, "--to", "safetensors", "--fold-constant")
    assert "full network carries se everywhere and this ticket uses kind 2 (eca) at" in message
    assert "stage 2, block 2, which folding cannot keep; export it without" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--to", "safetensors", "--opset", 18),
            "opset 18 given with safetensors, which has none",
        ),
        (
            ("--to", "onnx", "--out", "x.pt2"),
            "x.pt2 shall be onnx; give a name that ends in .onnx",
        ),
        (("--to", "onnx", "--weights", "none"), "there is no file none; give one that is there"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, words, study, monkeypatch):
    monkeypatch.chdir(study.parent)
    before = leftovers(study.parent)
    message = error(study / "tickets" / "ticket.json", *arguments)
    assert words in message
    assert leftovers(study.parent) == before
    assert not list(study.glob("exports/*"))


def test_without_the_extra_it_says_what_to_install(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = error(study / "tickets" / "ticket.json", "--to", "onnx")
    assert (
        "export --to onnx needs onnx, onnxscript and onnxruntime; install them with: " in message
    )


def test_no_ticket_at_all(study):
    assert "cannot read ticket none.json" in error("none.json", "--to", "onnx")
    message = error(checkpoint_of(study), "--to", "onnx")
    assert "holds weights without a ticket" in message


def test_folding_constants(study):
    ticket = study / "tickets" / "ticket.json"
    printed = run(ticket, "--to", "safetensors", "--fold-constant").stdout
    out = study / "exports" / "ticket-10-01-10-folded.safetensors"
    assert f"wrote {out}" in printed
    assert "3 modules folded into constants; over 32 training images the logits change" in printed
    assert read_ticket(out) == replace(Ticket.load(ticket), scores=())
    full = replace(Ticket.load(ticket), scheme=FULL)
    network = load_weights(full, checkpoint_of(study, FULL))
    images = open_study(study).parts.data.train
    batches = calibration_batches(images, count=32, seed=0)
    folded, report = fold_constant(network, SCHEME, batches)
    assert f"{report.change_max:.2%} at most, and {report.unchanged:.2%} of" in printed
    for block in report.blocks:
        assert f"{block.dispersion:.3f}" in printed
    got = load_ticket(out)
    assert torch.equal(got(batches[0]), folded.eval()(batches[0]))


def test_folding_needs_the_study_and_its_full_network(study):
    ticket = study / "tickets" / "ticket.json"
    checkpoint_of(study, FULL).unlink()
    message = error(ticket, "--to", "safetensors", "--fold-constant")
    assert "11-11-11.seed0.safetensors were removed; move " in message
    lost = shutil.copy(ticket, study.parent)
    message = error(lost, "--to", "safetensors", "--fold-constant")
    assert "whose images --fold-constant takes means over; give one that does" in message


def test_an_interrupt_leaves_nothing(study, monkeypatch, capsys):
    def interrupt(*_arguments, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("sat_optuna.export.write.write_weights", interrupt)
    code = main(["export", str(study / "tickets" / "ticket.json"), "--to", "safetensors"])
    assert code == 130
    assert capsys.readouterr().out == ""
    assert leftovers(study / "exports") == []


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from sat_optuna.cli import main; main(['export', '--help'])\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'numpy', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "Example: sat-optuna export" in done.stdout


def test_the_ticket_of_a_file_is_the_ticket(study):
    run(study / "tickets" / "ticket.json", "--to", "safetensors")
    record = read_record(study / "exports" / "ticket-10-01-10.safetensors")
    assert record["ticket"] == json.loads((study / "tickets" / "ticket.json").read_text())
