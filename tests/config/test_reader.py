"""study.toml: what it gives, what it is told when it is wrong, and what `new` writes."""

import json
import tomllib
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.config.config import AttentionConfig, StudyConfig, TransferConfig, decided
from sat_optuna.config.reader import given_ticket_of, parse_config, plugins_of, read_toml
from sat_optuna.config.template import to_toml, write_config
from sat_optuna.errors import ConfigError, SatOptunaWarning
from sat_optuna.ticket import SHARINGS, AttentionSpec

KNOWN = {
    "modules": ("dia", "se", "sge"),
    "backbones": ("resnet20", "resnet32"),
    "datasets": ("cifar10", "mnist5k"),
}

EXAMPLE = """
seed = 0
[data]
name = "mnist5k"
valid = 0.2                      # share of the training part
[network]
backbone = "resnet20"
width = 8
stem_stride = 2
[attention]
kinds = ["se"]                   # each block: none, or one of these
se = { reduction = 16, sharing = "block" }   # or "stage"
[pretrain]
epochs = 10
connect = 0.5                    # probability of a connection in a random scheme
[search]
objective = "supernet"           # or "train"
sampler = "policy"               # or "paper", "tpe", "random", "nsga2"
trials = 60
sparsity_weight = 2.0            # accuracy points for all connections dropped
[retrain]
epochs = 10
seeds = [0, 1, 2, 3]
"""


def parse(text):
    return parse_config(tomllib.loads(text), source="study.toml", known=KNOWN)


def faults(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.source == "study.toml"
    return list(caught.value.faults)


def test_the_example_gives_the_configuration_it_says():
    config = parse(EXAMPLE)
    network = replace(StudyConfig().network, width=8, stem_stride=2)
    assert config == replace(StudyConfig(), network=network)


@pytest.mark.parametrize(
    "sampler",
    ["policy", "paper", "tpe", "random", "nsga2", "gp", "brute-force", "optunahub:catcmawm"],
)
@pytest.mark.parametrize("objective", ["supernet", "train"])
def test_every_sampler_goes_with_every_objective(sampler, objective):
    text = EXAMPLE.replace('"policy"', f'"{sampler}"').replace('"supernet"', f'"{objective}"')
    assert (parse(text).search.sampler, parse(text).search.objective) == (sampler, objective)


def test_an_empty_file_gives_the_defaults():
    assert parse("") == StudyConfig()
    assert parse("[attention]\n[search]\n") == StudyConfig()


def test_whole_numbers_serve_as_numbers():
    config = parse("[train]\nlr = 1\n[search]\nsparsity_weight = -2")
    assert (config.train.lr, type(config.train.lr)) == (1.0, float)
    assert config.search.sparsity_weight == -2.0


@pytest.mark.parametrize(
    "text",
    [
        '[search]\nfixed = { "s1.b00" = "none", "s1.b02" = "se", "s2.b01" = "se" }',
        '[search]\nfixed = { s1.b00 = "none", s1.b02 = "se", s2.b01 = "se" }',
        '[search.fixed]\ns1.b00 = "none"\ns1.b02 = "se"\n"s2.b01" = "se"',
    ],
)
def test_fixed_blocks_are_read_with_quotes_and_without(text):
    fixed = {"s1.b00": "none", "s1.b02": "se", "s2.b01": "se"}
    assert parse(text).search.fixed == fixed
    written = parse(to_toml(parse(text)))
    assert written == parse(text)
    assert decided(written, "search") == {"search.fixed": fixed}
    assert not decided(written, "retrain")


def test_settings_of_a_network_are_read_and_written_and_decide_every_step():
    settings = {"drop_path_rate": 0.1, "gn": 8, "act": "relu", "deep": True, "dims": [1, 2]}
    text = f"[network]\nsettings = {json.dumps(settings).replace(':', ' =')}\nwidth = 8"
    config = parse(text)
    assert config.network.settings == settings
    assert config.network.backbone_settings == {"width": 8, **settings}
    assert parse(to_toml(config)) == config
    for step in ("pretrain", "search", "retrain"):
        assert decided(config, step)["network.settings"] == settings


def test_several_kinds_keep_their_order_and_settings():
    config = parse(
        '[attention]\ndia = { sharing = "stage", reduction = 4 }\nkinds = ["sge", "dia"]'
    )
    assert config.attention.kinds == (
        AttentionSpec(kind="sge"),
        AttentionSpec(kind="dia", sharing="stage", settings={"reduction": 4}),
    )


def test_a_default_kind_keeps_the_defaults_that_its_table_does_not_name():
    assert parse('[attention]\nkinds = ["se"]') == StudyConfig()
    (kind,) = parse('[attention]\nse = { sharing = "stage" }').attention.kinds
    assert kind == AttentionSpec(kind="se", sharing="stage", settings={"reduction": 16})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed = 1", "unknown key 'sed'; did you mean 'seed'?"),
        (
            "colour = 1",
            "unknown key 'colour'; known: seed, threads, device, transfer, data, task, network, "
            "attention, train, pretrain, search, retrain, evidence, truth, plugins",
        ),
        (
            '[transfer]\nticket = "t.json"\n[pretrain]\nepochs = 3',
            "pretrain.epochs is 3 and transfer.ticket is 't.json': the ticket is given, so "
            "nothing is pretrained or searched; drop one of the two",
        ),
        (
            '[transfer]\nticket = "t.json"\n[search]\nmetric = "miou"\nsampler = "tpe"',
            "search.sampler is 'tpe' and transfer.ticket is 't.json': the ticket is given, so "
            "nothing is pretrained or searched; drop one of the two",
        ),
        ("[transfer]\nticket = 3", "transfer.ticket is 3; write a text"),
        ("[transfer]\nrule = 3", "unknown key 'transfer.rule'; known: ticket"),
        ("[serach]", "unknown key 'serach'; did you mean 'search'?"),
        ("[search]\ntrails = 1", "unknown key 'search.trails'; did you mean 'trials'?"),
        (
            "[pretrain]\nzzz = 1",
            "unknown key 'pretrain.zzz'; known: epochs, connect, draws, start",
        ),
        ("data = 1", "data is 1; write a table [data]"),
        ("[[search]]", "search is [{}]; write a table [search]"),
        ('seed = "0"', "seed is '0'; write a whole number"),
        ("seed = true", "seed is True; write a whole number"),
        ("seed = -1", "seed is -1; write at least 0"),
        ("[search]\ntrials = 1.0", "search.trials is 1.0; write a whole number"),
        ("[search]\ntrials = 0", "search.trials is 0; write at least 1"),
        ("[train]\nflip = 1", "train.flip is 1; write true or false"),
        ('[train]\nlr = "1"', "train.lr is '1'; write a number"),
        ("[train]\nlr = true", "train.lr is True; write a number"),
        ("[train]\nlr = 0.0", "train.lr is 0.0; write at least 1e-08"),
        ("[train]\nlr = nan", "train.lr is nan; write a finite number"),
        (
            "[search]\nsparsity_weight = inf",
            "search.sparsity_weight is inf; write a finite number",
        ),
        ("[pretrain]\nconnect = 1.5", "pretrain.connect is 1.5; write at most 1.0"),
        ("[data]\nname = 5", "data.name is 5; write a text"),
        (
            '[data]\nname = "mnist"',
            "data.name is 'mnist'; did you mean 'mnist5k'? known: cifar10, mnist5k",
        ),
        (
            '[network]\nbackbone = "vit"',
            "network.backbone is 'vit'; known: resnet20, resnet32",
        ),
        (
            '[search]\nsampler = "polcy"',
            "search.sampler is 'polcy'; did you mean 'policy'? "
            "choose one of: 'policy', 'paper', 'tpe', 'random', 'nsga2', 'gp', 'brute-force', "
            "'optunahub:NAME'",
        ),
        (
            '[train]\nprecision = "int8"',
            "train.precision is 'int8'; choose one of: 'auto', 'float32', 'bfloat16', 'float16'",
        ),
        ("[plugins]\nmodules = [1]", "plugins.modules is [1]; write a list of texts"),
        ('[plugins]\nmodules = "a.py"', "plugins.modules is 'a.py'; write a list of texts"),
        ("[network]\nblocks = 3", "network.blocks is 3; write a list of whole numbers"),
        (
            "[network]\nblocks = [3, 1.0]",
            "network.blocks is [3, 1.0]; write a list of whole numbers",
        ),
        (
            "[network]\nblocks = [3, 0]",
            "network.blocks is [3, 0]; write whole numbers of at least 1",
        ),
        (
            "[retrain]\nseeds = [0, 1]",
            "retrain.seeds is [0, 1]; write at least 3 numbers, each once",
        ),
        (
            "[retrain]\nseeds = [0, 1, 2, 2]",
            "retrain.seeds is [0, 1, 2, 2]; write at least 3 numbers, each once",
        ),
        (
            "[retrain]\nseeds = [0, 1, -2]",
            "retrain.seeds is [0, 1, -2]; write whole numbers of at least 0",
        ),
        (
            "[retrain]\nseeds = [0, 1, true]",
            "retrain.seeds is [0, 1, True]; write a list of whole numbers",
        ),
        (
            '[attention]\nkinds = "se"',
            "attention.kinds is 'se'; write a list of names such as [\"se\"]",
        ),
        ("[attention]\nkinds = []", 'attention.kinds is []; write a list of names such as ["se"]'),
        (
            '[attention]\nkinds = ["se", "se"]',
            "attention.kinds is ['se', 'se']; name each kind once",
        ),
        (
            '[attention]\nkinds = ["sgee"]',
            "attention.kinds has 'sgee'; did you mean 'sge'? known: dia, se, sge",
        ),
        (
            '[attention]\nkinds = ["se"]\nnothing = {}',
            "unknown key 'attention.nothing'; name it in attention.kinds or drop it",
        ),
        ('[attention]\nkind = ["se"]', "unknown key 'attention.kind'; did you mean 'kinds'?"),
        (
            "[attention]\nse = 16",
            'attention.se is 16; write a table such as { sharing = "block" }',
        ),
        (
            '[attention]\nse = { sharing = "net" }',
            "attention.se.sharing is 'net'; write 'block' or 'stage'",
        ),
        (
            "[attention]\nse = { sharing = [1] }",
            "attention.se.sharing is [1]; write 'block' or 'stage'",
        ),
        (
            "[attention]\nse = { reduction = [16] }",
            "attention.se.reduction is [16]; write a finite number, a text, true or false",
        ),
        (
            "[attention]\nse = { reduction = nan }",
            "attention.se.reduction is nan; write a finite number, a text, true or false",
        ),
        (
            '[pretrain]\ndraws = "antithetic"\nconnect = 0.3',
            "pretrain.draws is 'antithetic' with connect = 0.3 and 1 kind of attention; "
            "it needs connect = 0.5 and one kind, or choose 'iid' or 'balanced'",
        ),
        (
            '[pretrain]\ndraws = "antithetic"\n[attention]\nkinds = ["se", "sge"]',
            "pretrain.draws is 'antithetic' with connect = 0.5 and 2 kinds of attention; "
            "it needs connect = 0.5 and one kind, or choose 'iid' or 'balanced'",
        ),
        (
            "[train]\nmomentum = 0",
            "train.nesterov is true with momentum = 0.0; raise momentum or set nesterov = false",
        ),
        (
            '[search]\nsampler = "tpe"\nmax_connections = 3',
            "search.max_connections is set with sampler = 'tpe', which knows no limits; choose "
            "sampler 'policy' or 'paper'",
        ),
        (
            '[network]\nsettings = "drop"',
            "network.settings is 'drop'; write a table of finite numbers, texts, true, false or "
            "lists such as { rate = 0.1 }",
        ),
        (
            "[network]\nsettings = { rate = { a = 1 } }",
            "network.settings is {'rate': {'a': 1}}; write a table of finite numbers, texts, "
            "true, false or lists such as { rate = 0.1 }",
        ),
        (
            "[network]\nsettings = { rates = [0.1, nan] }",
            "network.settings is {'rates': [0.1, nan]}; write a table of finite numbers, texts, "
            "true, false or lists such as { rate = 0.1 }",
        ),
        (
            "[network]\nsettings = { seed = 1 }",
            "network.settings has 'seed', which is given already; drop it there",
        ),
        (
            "[network]\nwidth = 8\nsettings = { width = 4 }",
            "network.width is set, and network.settings has width too; drop one of them",
        ),
        (
            '[network]\nweights = "a.pth"\npretrained = true\n[retrain]\nstart = "weights"',
            "network.weights is 'a.pth' and network.pretrained is true; keep one",
        ),
        (
            '[retrain]\nstart = "weights"',
            "retrain.start is 'weights' and [network] names none; set network.weights to a file, "
            "or network.pretrained to true",
        ),
        (
            '[network]\nweights = "a.pth"',
            "network.weights is 'a.pth' and no step starts from it; set start = 'weights' under "
            "[pretrain], [retrain] or both",
        ),
        (
            "[network]\npretrained = true",
            "network.pretrained is True and no step starts from it; set start = 'weights' under "
            "[pretrain], [retrain] or both",
        ),
        (
            "[train]\nlr_body = 0.1",
            "train.lr_body is 0.1 and no step has start = 'weights'; set train.lr, or start = "
            "'weights' under [pretrain] or [retrain]",
        ),
        (
            '[retrain]\nstart = "weigths"',
            "retrain.start is 'weigths'; did you mean 'weights'? choose one of: 'scratch', "
            "'weights'",
        ),
        (
            '[train]\noptimizer = "adam"',
            "train.optimizer is 'adam'; did you mean 'adamw'? choose one of: 'sgd', 'adamw'",
        ),
        (
            '[train]\naugment = "rand"',
            "train.augment is 'rand'; did you mean 'randaugment'? choose one of: 'none', "
            "'randaugment', 'trivialaugment', 'augmix', 'autoaugment'",
        ),
        (
            '[train]\nclip = 1.0\nstrategy = "graph"',
            "train.strategy is 'graph' with clip = 1.0, with which a supernet's steps are not "
            "made as graphs; choose strategy 'auto' or 'eager', or clip = 0",
        ),
        *(
            (
                f'[train]\n{key} = 0.5\n[task]\nname = "{task}"\n[search]\nmetric = "{metric}"',
                f"train.{key} is 0.5 and task.name is {task!r}, whose labels cannot be mixed; "
                "write 0",
            )
            for key, task, metric in (
                ("mixup", "multi-label", "map"),
                ("cutmix", "regression", "mae"),
            )
        ),
        ("[train]\nema = 1.0", "train.ema is 1.0; write at most 0.999999"),
        ("[train]\nclip = -1.0", "train.clip is -1.0; write at least 0.0"),
        ("[train]\nmixup = -0.2", "train.mixup is -0.2; write at least 0.0"),
        ("[train]\ncutmix = true", "train.cutmix is True; write a number"),
        ("device = 1", "device is 1; write a text"),
        (
            "[train]\nwarmup = 5\n[retrain]\nepochs = 5",
            "train.warmup is 5 and retrain.epochs is 5; write fewer epochs of warm-up",
        ),
        (
            '[train]\noptimizer = "adamw"\nstrategy = "graph"',
            "train.strategy is 'graph' with optimizer = 'adamw', whose steps are not made as "
            "graphs; choose strategy 'auto' or 'eager', or optimizer 'sgd'",
        ),
        (
            '[search]\nfixed = "s1.b00"',
            'search.fixed is \'s1.b00\'; write a table of texts such as { "s1.b00" = "none" }',
        ),
        (
            '[search]\nfixed = { "s1.b00" = 0 }',
            "search.fixed is {'s1.b00': 0}; write a table of texts such as "
            '{ "s1.b00" = "none" }',
        ),
        (
            '[search]\nfixed = { "s1.b00" = "1" }',
            "search.fixed gives 's1.b00' the kind '1'; choose one of: 'none', 'se'",
        ),
        (
            '[search]\nfixed = { s1.b00 = "sge" }',
            "search.fixed gives 's1.b00' the kind 'sge'; did you mean 'se'? choose one of: "
            "'none', 'se'",
        ),
        (
            '[search]\nsampler = "tpe"\nfixed = { s1.b00 = "se" }',
            "search.fixed is set with sampler = 'tpe', which cannot hold blocks; choose sampler "
            "'policy' or 'paper'",
        ),
        (
            "[search]\nreplicates = 2",
            "search.replicates is 2 with objective = 'supernet' and sampler = 'policy'; it needs "
            "objective 'train', for else a scheme is scored the same each time, and sampler "
            "'policy' or 'paper'",
        ),
        (
            '[search]\nobjective = "train"\nheld_back = 0.5',
            "search.held_back is 0.5 with objective = 'train', and blocks that a ticket can do "
            "without are found in a supernet; write 0, or choose objective 'supernet'",
        ),
        (
            '[search]\nobjective = "folded"',
            "search.objective is 'folded', which asks what may go of a network trained with "
            "attention in all blocks, with pretrain.connect = 0.5 and draws = 'iid'; write "
            "connect = 1.0 and draws = 'iid' under [pretrain]",
        ),
        (
            '[pretrain]\ndraws = "balanced"\nconnect = 1.0\n[search]\nobjective = "folded"',
            "search.objective is 'folded', which asks what may go of a network trained with "
            "attention in all blocks, with pretrain.connect = 1.0 and draws = 'balanced'; write "
            "connect = 1.0 and draws = 'iid' under [pretrain]",
        ),
        (
            '[pretrain]\nconnect = 1.0\n[search]\nobjective = "folded"\npruner = "median"',
            "search.pruner is 'median' with objective = 'folded', which scores in one step; "
            "choose objective 'train' or pruner 'none'",
        ),
        (
            '[pretrain]\nconnect = 1.0\n[search]\nobjective = "folded"\nreplicates = 2',
            "search.replicates is 2 with objective = 'folded' and sampler = 'policy'; it needs "
            "objective 'train', for else a scheme is scored the same each time, and sampler "
            "'policy' or 'paper'",
        ),
        (
            '[search]\npruner = "median"',
            "search.pruner is 'median' with objective = 'supernet', which scores in one step; "
            "choose objective 'train' or pruner 'none'",
        ),
        ("[search]\nmax_latency_share = 0", "search.max_latency_share is 0; write at least 0.01"),
        (
            "[search]\nmax_latency_share = 1.5",
            "search.max_latency_share is 1.5; write at most 1.0",
        ),
        ("[search]\nmax_latency_ms = -1", "search.max_latency_ms is -1; write at least 0.0"),
        ("[search]\nlatency_batch = 0", "search.latency_batch is 0; write at least 1"),
        (
            "[search]\nmax_latency_ms = 4\nmax_latency_share = 0.5",
            "search.max_latency_ms is 4.0 and search.max_latency_share 0.5, two limits of one "
            "thing; set one of them",
        ),
        (
            '[search]\nsampler = "nsga2"\nmax_latency_share = 0.5',
            "search.max_latency_share is set with sampler = 'nsga2', which knows no limits; "
            "choose sampler 'policy' or 'paper'",
        ),
        (
            '[search]\nobjectives = ["accuracy", "latency"]',
            "search.objectives has 'latency'; did you mean 'latency_ms'? known: accuracy, "
            "latency_ms, params, macs",
        ),
        (
            '[search]\nobjectives = ["accuracy"]',
            "search.objectives is ['accuracy']; name accuracy and one or more of latency_ms, "
            "params, macs, or leave it empty, for one reward",
        ),
        (
            '[search]\nobjectives = ["params", "macs"]',
            "search.objectives is ['params', 'macs']; name accuracy and one or more of "
            "latency_ms, params, macs, or leave it empty, for one reward",
        ),
        (
            '[search]\nobjectives = ["accuracy", "macs", "macs"]',
            "search.objectives is ['accuracy', 'macs', 'macs']; name each objective once",
        ),
        (
            '[search]\nobjectives = "accuracy"',
            "search.objectives is 'accuracy'; write a list of texts",
        ),
        (
            '[search]\nobjective = "train"\npruner = "median"\nobjectives = ["accuracy", "macs"]',
            "search.pruner is 'median' with objectives, of which Optuna prunes none; choose "
            "pruner 'none', or leave objectives empty",
        ),
        (
            '[search]\nobjective = "train"\nreplicates = 2\nobjectives = ["accuracy", "macs"]',
            "search.replicates is 2 with objectives, and a front is of schemes that are measured "
            "once; leave one of the two out",
        ),
        (
            "[search]\nsampler_settings = { warmup = 3 }",
            "search.sampler_settings is set with sampler = 'policy', which takes none from "
            "study.toml; leave it out, or choose one of Optuna's samplers",
        ),
        (
            '[search]\nsampler = "tpe"\nsampler_settings = { a = [1] }',
            "search.sampler_settings is {'a': [1]}; write a table of finite numbers, texts, true "
            "or false such as { name = 20 }",
        ),
        (
            '[search]\nsampler = "cmaes"',
            "search.sampler is 'cmaes'; CMA-ES knows no categorical parameters, and Optuna's "
            "would draw each block at random; choose another, such as 'nsga2' or "
            "'optunahub:catcmawm'",
        ),
        (
            '[search]\nsampler = "optunahub:"',
            "search.sampler is 'optunahub:'; choose one of: 'policy', 'paper', 'tpe', 'random', "
            "'nsga2', 'gp', 'brute-force', 'optunahub:NAME'",
        ),
    ],
)
def test_a_fault_is_one_sentence(text, said):
    assert faults(text) == [said]


@pytest.mark.parametrize("kinds", ['"sge"', '"dia"', '"dia", "sge"'])
def test_the_templates_line_of_se_is_no_fault_under_other_kinds(kinds):
    written = to_toml(StudyConfig())
    assert 'kinds = ["se"]' in written
    assert "\nse = { reduction = 16" in written
    config = parse(written.replace('kinds = ["se"]', f"kinds = [{kinds}]"))
    assert [f'"{spec.kind}"' for spec in config.attention.kinds] == kinds.split(", ")


def test_settings_of_a_kind_that_kinds_does_not_name_are_said_to_be_unused():
    words = "attention.dia is set, and attention.kinds does not name dia, so it is not used"
    with pytest.warns(SatOptunaWarning, match=words):
        parse('[attention]\nkinds = ["se"]\ndia = { sharing = "stage" }')


def test_a_table_of_a_kind_there_is_gets_no_hint_to_a_misspelt_one():
    assert faults('[attention]\nkinds = ["see"]\nse = {}') == [
        "attention.kinds has 'see'; did you mean 'se'? known: dia, se, sge",
    ]


def test_more_kinds_than_digits_are_refused():
    kinds = [f"k{i}" for i in range(36)]
    with pytest.raises(ConfigError, match="names 36 kinds; name at most 35"):
        parse_config({"attention": {"kinds": kinds}}, source="x", known={})


def test_a_number_no_float_can_hold_is_refused():
    assert faults(f"[train]\nlr = {10**400}") == [f"train.lr is {10**400}; write a number"]


def test_all_faults_are_shown_at_once_those_of_two_keys_too():
    text = """
    sed = 1
    [data]
    name = "mnist"
    [attention]
    kinds = ["sse"]
    other = {}
    [train]
    momentum = 0
    lr = "fast"
    [search]
    pruner = "median"
    """
    assert [fault.split(" ")[0:3] for fault in faults(text)] == [
        ["unknown", "key", "'sed';"],
        ["data.name", "is", "'mnist';"],
        ["attention.kinds", "has", "'sse';"],
        ["unknown", "key", "'attention.other';"],
        ["train.lr", "is", "'fast';"],
        ["train.nesterov", "is", "true"],
        ["search.pruner", "is", "'median'"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[search]\npruner = "median"\nobjective = "trian"',
        '[pretrain]\ndraws = "antithetic"\nconnect = "often"',
        '[pretrain]\ndraws = "antithetic"\n[attention]\nkinds = ["se", "se"]',
        "[train]\nmomentum = 0\nnesterov = 0",
    ],
)
def test_a_faulty_key_gives_no_second_fault_through_its_default(text):
    assert len(faults(text)) == 1


def test_names_are_checked_only_where_they_are_known():
    text = '[data]\nname = "mine"\n[attention]\nkinds = ["mine"]'
    config = parse_config(tomllib.loads(text), source="x", known={})
    assert (config.data.name, config.attention.kinds[0].kind) == ("mine", "mine")


def test_a_kind_without_a_table_has_the_sharing_it_is_said_to_have():
    text = '[attention]\nkinds = ["dia", "sge"]\nsge = { groups = 2 }'
    config = parse_config(
        tomllib.loads(text), source="x", known={}, default_sharing={"dia": "stage"}
    )
    assert [(s.kind, s.sharing) for s in config.attention.kinds] == [
        ("dia", "stage"),
        ("sge", "block"),
    ]


def test_plugins_are_known_before_the_rest_is_checked():
    document = tomllib.loads('colour = 1\n[plugins]\nmodules = ["net.py", "data.py"]')
    assert plugins_of(document) == ("net.py", "data.py")
    for text in ("", "plugins = 1", "[plugins]\nmodules = 1", "[plugins]\nmodules = [1]"):
        assert plugins_of(tomllib.loads(text)) == ()


def test_whether_a_ticket_is_given_is_known_before_the_rest_is_checked():
    assert given_ticket_of(tomllib.loads('colour = 1\n[transfer]\nticket = "a.json"')) == "a.json"
    for text in ("", "transfer = 1", "[transfer]", "[transfer]\nticket = 1"):
        assert given_ticket_of(tomllib.loads(text)) == ""


def test_the_defaults_survive_being_written_and_read():
    assert parse(to_toml(StudyConfig())) == StudyConfig()


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SETTINGS = st.dictionaries(
    TEXTS.filter(lambda name: name != "sharing"),
    st.one_of(
        st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
    ),
    max_size=2,
)


@given(
    root=TEXTS,
    lr=st.floats(1e-8, 1e300),
    seeds=st.lists(st.integers(0, 2**62), min_size=3, max_size=12, unique=True),
    blocks=st.lists(st.integers(1, 40), max_size=4),
    plugins=st.lists(TEXTS, max_size=2),
    sampler=SETTINGS,
    kinds=st.dictionaries(
        TEXTS.filter(lambda name: name not in ("kinds", "se")),
        st.tuples(st.sampled_from(SHARINGS), SETTINGS),
        min_size=1,
        max_size=3,
    ),
)
def test_any_configuration_survives_being_written_and_read(
    root, lr, seeds, blocks, plugins, sampler, kinds
):
    default = StudyConfig()
    specs = (
        AttentionSpec(kind=kind, sharing=sharing, settings=settings)
        for kind, (sharing, settings) in kinds.items()
    )
    config = replace(
        default,
        data=replace(default.data, root=root),
        network=replace(default.network, blocks=tuple(blocks)),
        attention=AttentionConfig(tuple(specs)),
        train=replace(default.train, lr=lr),
        search=replace(default.search, sampler="tpe", sampler_settings=sampler),
        retrain=replace(default.retrain, seeds=tuple(seeds)),
        plugins=replace(default.plugins, modules=tuple(plugins)),
    )
    assert parse_config(tomllib.loads(to_toml(config)), source="x", known={}) == config


GIVEN = StudyConfig(transfer=TransferConfig("source.json"))


@pytest.mark.parametrize(("config", "unread"), [(StudyConfig(), "transfer"), (GIVEN, "pretrain")])
def test_every_key_is_written_once_with_a_comment(config, unread):
    lines = to_toml(config).splitlines()
    assert f"[{unread}]" not in lines  # what a study does not read
    assert parse(to_toml(config)) == config
    for spec in fields(StudyConfig):
        if spec.name == unread:
            continue
        section = getattr(config, spec.name)
        keys = [f.name for f in fields(section) if f.metadata] if is_dataclass(section) else []
        if config is GIVEN and spec.name == "search":
            keys = ["metric", "latency_batch"]
        names = keys or [spec.name]
        if is_dataclass(section):
            start = lines.index(f"[{spec.name}]") + 1
            end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
        else:
            start, end = 0, lines.index("")
        written = [line for line in lines[start:end] if line.split(" = ")[0] in names]
        assert [line.split(" = ")[0] for line in written] == names
    for line in lines:
        assert not line or line.startswith("[") or " # " in line
        assert len(line) < 120


def test_what_is_written_shows_the_other_choices():
    for spec in fields(StudyConfig):
        section = getattr(StudyConfig(), spec.name)
        for f in fields(section) if is_dataclass(section) else ():
            for choice in f.metadata.get("choices", ()):
                assert choice == f.default or repr(choice) in f.metadata["comment"]


def test_a_file_is_written_and_read(tmp_path):
    path = tmp_path / "mine" / "study.toml"
    assert write_config(path, StudyConfig()) == path
    assert parse_config(read_toml(path), source="x", known=KNOWN) == StudyConfig()


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seed = 5")
    with pytest.raises(ConfigError) as caught:
        write_config(path, StudyConfig())
    assert str(caught.value) == f"{path}: exists already; edit it, or choose another name"
    assert path.read_text() == "seed = 5"


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_toml(tmp_path / "study.toml")
    assert str(caught.value) == (
        f"{tmp_path / 'study.toml'}: cannot be read (No such file or directory); "
        "make one with: sat-optuna new NAME"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"seed = ", "(at end of document)"),
        (b"a = 1\nseed 0", "(at line 2, column 6)"),
        (b'root = "\xff"', "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_what_is_no_toml_is_said_with_its_place(tmp_path, content, reason):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: is not TOML: ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; correct it there")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "study.toml"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + b"seed = 3\n")
        assert read_toml(path) == {"seed": 3}
    path.write_bytes(b"\xff\xfes\x00")  # UTF-16
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(path)
