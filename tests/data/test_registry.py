import subprocess
import sys
from pathlib import Path

import pytest

from sat_optuna.config.config import DataConfig
from sat_optuna.data import (
    DATASETS,
    data_root,
    get_dataset,
    load_configured,
    load_dataset,
)
from sat_optuna.errors import DataError, UnknownName
from tests.data.formats import write_fashion


def test_names_are_listed_without_torch():
    code = (
        "import sys; from sat_optuna.data import DATASETS\n"
        "assert len(DATASETS.names()) == 18; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", DATASETS.names())
def test_each_name_leads_to_its_source(name):
    assert DATASETS.get(name).name == name


def test_an_unknown_name_is_pointed_to_the_nearest():
    with pytest.raises(UnknownName, match=r"no data set 'cifar11'; did you mean 'cifar10+'\?"):
        load_dataset("cifar11")
    with pytest.raises(UnknownName, match=r"'stl11'.*'stl10'"):
        get_dataset("stl11")


def test_the_root_is_the_environments_or_the_cache(monkeypatch):
    monkeypatch.setenv("SAT_OPTUNA_DATA", "~/here")
    assert data_root() == Path.home() / "here"
    monkeypatch.delenv("SAT_OPTUNA_DATA")
    assert data_root() == Path.home() / ".cache" / "sat_optuna" / "data"


def test_a_missing_set_is_looked_for_under_the_root(monkeypatch, tmp_path):
    monkeypatch.setenv("SAT_OPTUNA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path)):
        load_dataset("cifar10")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 0}, "size is a number of pixels"), ({"workers": -1}, "workers is a number")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        load_dataset("mnist5k", **settings)


def test_a_study_names_its_data(tmp_path):
    write_fashion(tmp_path)
    config = DataConfig(name="fashion-mnist", valid=0.4, limit=30, root=str(tmp_path))
    split = load_configured(config, seed=3)
    assert (len(split.train), len(split.valid)) == (18, 12)
