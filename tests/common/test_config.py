"""The configuration file: what is refused, what must be admitted, presets and overrides."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig, known_keys, literal_values
from dictpfl.common.errors import ConfigError, ParameterError
from dictpfl.common.law.aggregation import moved
from dictpfl.common.presets import METHODS
from dictpfl.common.protection import Encryption
from dictpfl.common.rounds import Aggregation, Pruning


def test_the_default_is_sound() -> None:
    config = FederationConfig.of({})
    assert config.insecurities == ()
    assert config.capacity == 3
    assert json.loads(config.canonical()) == config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"training": {"epoch": 1}}, "nearest known key is 'training.epochs'"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
        ({"pruning": {"s": 1.5}}, r"pruning\.s"),
        ({"pruning": {"beta": 0.0}}, r"pruning\.beta"),
        ({"grid": {"first_range": float("inf")}}, "first_range"),
        ({"method": "magic"}, "unknown method"),
        ({"method": ["dictpfl"]}, r"unknown method \['dictpfl'\]"),
        ({"method": "fedhe-topk", "decomposition": 5}, "'decomposition' is not a section, but 5"),
        ({"sparsity": {"method": "lua"}, "tallies": 5}, "tallies: .*found 5"),
        ({"sparsity": {"method": "lua"}, "pruning": 5}, "pruning: .*found 5"),
        ({"federation": {"participants": 5, "max_participants": 4}}, "raise max_participants"),
        ({"federation": {"participants": 3, "min_participants": 4}}, "no round could ever close"),
        ({"encryption": {"ring_degree": 1000}}, "ring_degree"),
        ({"narrow": {"axes": ["ffn"]}, "encryption": {"sealed_share": 0.5}, "toy_insecure": True}, "gates are none"),
        ({"privacy": {"epsilon": 8.0}}, "nothing would add noise"),
        ({"training": {"weight_decay": True}}, "weight_decay: expected no truth value, found true"),
        ({"federation": {"sample": True}}, "sample: expected no truth value, found true"),
        ({"decomposition": {"refresh_ranks": [True], "refresh_every": 2}}, r"refresh_ranks: .*found \[true\]"),
        ({"name": False}, "name: expected no truth value, found false"),
        ({"training.epochs": 3}, "unknown key 'training.epochs'; write it without quotes"),
        ({"": 3}, "unknown key ''; the nearest"),
        ({"training": {"batch_size": 2**63}}, r"training\.batch_size: expected at most 2147483647"),
        ({"training": {"accumulate": 2**31}}, r"training\.accumulate: expected at most 2147483647"),
        ({"decomposition": {"refresh_ranks": [2**70], "refresh_every": 2}}, r"refresh_ranks: expected at most"),
        ({"model": {"pretrain": {"epochs": 10**400}}}, r"model\.pretrain\.epochs: expected at most"),
        ({"training": {"threads": 10**6}}, r"training\.threads: .*less than or equal to 1024"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(raw: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FederationConfig.of(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"encryption": {"sealer": "identity"}}, {"encryption": {"sealed_share": 0.5}}, {"method": "plaintext"},
        {"method": "fedml-he"}, {"federation": {"participants": 2, "min_participants": 2}},
    ],
    ids=str,
)  # fmt: skip
def test_what_protects_nobody_must_be_admitted(raw: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match="toy_insecure", check=lambda e: e.code == "insecure"):
        FederationConfig.of(raw)
    assert FederationConfig.of({**raw, "toy_insecure": True}).insecurities


def test_encryption_under_a_public_key_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"profile is 'public_key', but encryption under a public key was removed.*0030"
    ):
        FederationConfig.of({"encryption": {"profile": "public_key"}})
    saved_by_an_earlier_release = {"encryption": {"profile": "symmetric", "security": 128}}
    assert FederationConfig.of(saved_by_an_earlier_release).encryption == Encryption(security=128)
    assert "encryption.profile" not in known_keys()


def test_overrides_and_presets() -> None:
    assert FederationConfig.of({}, {"training.epochs": 3}).training.epochs == 3
    with pytest.raises(ConfigError, match="not a section"):
        FederationConfig.of({"name": "x"}, {"name.more": 1})
    mild = FederationConfig.of({"method": "fedml-he", "encryption": {"sealed_share": 0.3}, "toy_insecure": True})
    assert mild.encryption.sealed_share == 0.3
    assert FederationConfig.of({"method": "dictpfl-paper", "pruning": {"beta": 0.9}}).pruning.beta == 0.2
    for method in METHODS:
        FederationConfig.of({"method": method, "toy_insecure": True})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    with pytest.raises(ConfigError, match="no configuration file"):
        FederationConfig.load(path)
    for text in (b"a = = b", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(ConfigError):
            FederationConfig.load(path)
    path.write_text("[training]\nepochs = 2\n", encoding="utf-8")
    assert FederationConfig.load(path).training.epochs == 2
    with pytest.raises(ConfigError, match="cannot read"):
        FederationConfig.load(tmp_path)
    path.write_text(f"seed = 0x{'f' * 9000}", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected numbers of fewer digits"):
        FederationConfig.load(path)
    for text in (f"seed = 1{'0' * 5000}", "a = " + "[" * 9000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="is not valid TOML"):
            FederationConfig.load(path)
    path.write_text(f"[{'.'.join('a' * 3000)}]", encoding="utf-8")
    with pytest.raises(ConfigError, match="tables that end"):
        FederationConfig.load(path)
    path.write_text("\ufeffseed = 7\r\n", encoding="utf-8")
    assert FederationConfig.load(path).seed == 7, "with the mark that some editors put in front"


def test_known_keys_and_words() -> None:
    keys = set(known_keys())
    assert {"training.epochs", "model.pretrain.epochs", "toy_insecure"} <= keys
    assert literal_values(Pruning, "pruned") == ("accumulate", "freeze", "discard")


def test_what_is_set_by_name_wins_over_a_preset() -> None:
    config = FederationConfig.of({"pruning": {"tau": 9}}, {"method": "dictpfl-paper", "pruning.beta": 0.8})
    assert (config.pruning.tau, config.pruning.beta, config.pruning.residual_decay) == (3, 0.8, 1.0)


def test_equal_sizes_are_of_partitions_that_can_have_them() -> None:
    for partition in ("iid", "dirichlet"):
        assert FederationConfig.of({"data": {"partition": partition, "sizes": "equal"}}).data.sizes == "equal"
    for partition in ("column", "ShardPartitioner"):
        with pytest.raises(ConfigError, match="decides sizes itself"):
            FederationConfig.of({"data": {"partition": partition, "sizes": "equal"}})


@pytest.mark.parametrize(
    ("said", "with_what", "reason"),
    [
        ({"training.momentum": 0.9}, {"training.optimizer": "sgd"}, r"training\.momentum is 0\.9, which training\.optimizer = 'adam' does not read; leave it out, or choose sgd"),
        ({"decomposition.refresh_ranks": [1]}, {"decomposition.refresh_every": 5}, "refresh_every is 0"),
        ({"data.alpha": 0.1}, {"data.partition": "dirichlet"}, r"data\.alpha is 0\.1, which data\.partition = 'iid' does not read"),
        ({"aggregation.momentum": 0.5}, {"aggregation.rule": "momentum"}, r"aggregation\.rule = 'average' does not read"),
        ({"aggregation.second": 0.9}, {"aggregation.rule": "adam"}, r"aggregation\.rule = 'average' does not read"),
        ({"aggregation.floor": 0.1}, {"aggregation.rule": "adagrad"}, r"aggregation\.rule = 'average' does not read"),
        ({"decomposition.refresh_stall": 0.2, "decomposition.refresh_every": 3}, {"decomposition.refresh_when": "stall"}, "'fixed' does not read"),
        ({"selection.min_delta": 0.1, "selection.by": "none"}, {"selection.by": "loss"}, r"selection\.by = 'none' does not read"),
        ({"sparsity.method": "lua", "sparsity.calibration": 8, "sparsity.scores": "magnitude"}, {"sparsity.scores": "wanda"}, "choose wanda"),
        ({"privacy.max_grad_norm": 0.5}, {"privacy.mechanism": "none"}, r"max_grad_norm is 0\.5, but privacy\.mechanism is not set"),
        ({"privacy.figures": True}, {"privacy.mechanism": "none"}, r"privacy\.mechanism is not set"),
        ({"scores.measure": "mine:fisher"}, {"scores.decision": "mine:Choice"}, r"measure is 'mine:fisher', but scores\.decision is not set"),
        ({"model.pretrain.classes": [1]}, {"model.pretrain.epochs": 0}, r"model\.pretrain\.epochs is not set"),
        ({"defences.mask_partners": 4}, {"defences.masks": True}, r"defences\.masks is not set"),
    ],
)  # fmt: skip
def test_what_nothing_reads_is_refused(said: dict[str, object], with_what: dict[str, object], reason: str) -> None:
    assert FederationConfig.of({}, said | with_what)
    with pytest.raises(ConfigError, match=reason):
        FederationConfig.of({}, said)


@pytest.mark.parametrize(
    ("mechanism", "said", "other"),
    [
        ("institution", {"privacy.max_grad_norm": 0.5}, "example"), ("institution", {"privacy.accountant": "prv"}, "example"),
        ("example", {"privacy.max_update_norm": 0.5}, "institution"), ("example", {"privacy.curious": 0}, "institution"),
    ],
)  # fmt: skip
def test_a_bound_of_the_other_mechanism_is_refused(mechanism: str, said: dict[str, object], other: str) -> None:
    chosen = {"privacy.epsilon": 8.0, "privacy.mechanism": mechanism}
    with pytest.raises(ConfigError, match=f"does not read; leave it out, or choose {other}"):
        FederationConfig.of({}, said | chosen)
    (key,) = (name.removeprefix("privacy.") for name in said)
    file = {"privacy": {"mechanism": other, "epsilon": 8.0, key: next(iter(said.values()))}}
    assert FederationConfig.of(file, chosen).privacy.mechanism == mechanism, "what was the other's is left behind"


def test_a_saved_configuration_is_read_whatever_it_has_switched_off() -> None:
    saved = FederationConfig.of({}, {"privacy.mechanism": "none", "privacy.figures": True}).model_dump(mode="json")
    assert FederationConfig.of(saved).privacy.figures


@pytest.mark.parametrize("odd", [float("nan"), float("-inf"), [1, {"b": float("inf")}], date(2026, 1, 1)], ids=str)
@pytest.mark.parametrize("key", ["model.options", "data.options", "training.task_options"])
def test_what_institutions_would_read_otherwise_is_refused(key: str, odd: object) -> None:
    """A genesis is JSON: NaN became null on the way, so that the founder built another model than the others."""
    with pytest.raises(ConfigError, match=f"{key}: expected finite numbers, words, lists and tables, found {{'a': "):
        FederationConfig.of({}, {key: {"a": odd}})


def test_what_is_chosen_by_name_leaves_behind_what_the_file_said_of_another() -> None:
    skewed = {
        "data": {"partition": "dirichlet", "alpha": 0.6},
        "aggregation": {"rule": "adam", "second": 0.5, "momentum": 0.8},
    }
    assert FederationConfig.of(skewed, {"data.partition": "iid"}).data.alpha == 0.3
    assert FederationConfig.of(skewed, {"data.partition": "dirichlet"}).data.alpha == 0.6
    rule = FederationConfig.of(skewed, {"aggregation.rule": "momentum"}).aggregation
    assert (rule.second, rule.momentum) == (0.99, 0.8), "what the new one reads stays"
    with pytest.raises(ConfigError, match="choose dirichlet"):
        FederationConfig.of(skewed, {"data.partition": "iid", "data.alpha": 0.6})
    for key, chosen, said in (
        ("tokens.reducer", "none", {"tokens": {"reducer": "autoprune", "keep": 0.5, "options": {"k": 0.1}}}),
        ("decomposition.allocator", "uniform", {"decomposition": {"allocator": "layerif", "scores": "layers.json"}}),
        ("pruning.schedule", "constant", {"pruning": {"schedule": "logistic", "budget": {"values": 900}}}),
    ):
        assert FederationConfig.of(said, {key: chosen}) == FederationConfig(), "the file without it"
        assert FederationConfig.of(
            said, {key: next(iter(said.values()))[key.partition(".")[2]]}
        ) == FederationConfig.of(said)
    for odd in ({"data": 5}, {"data": {"partition": [], "alpha": 1.0}}, {}):
        with pytest.raises(ConfigError):
            FederationConfig.of(odd, {"data.partition": ["iid"]})


def test_a_file_with_brackets_in_its_name_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "patients[2024].csv"
    assert FederationConfig.of({"data": {"path": str(file)}}).data.partition == "column", "a pattern of files to come"
    file.touch()
    assert FederationConfig.of({"data": {"path": str(file)}}).data.partition == "iid"
    assert FederationConfig.of({}, {"data.path": "hf://datasets/a/b/part-[1].parquet"}).data.partition == "iid"


def test_what_a_rule_reads_is_what_its_step_depends_on() -> None:
    """The table of what each rule reads is held to the arithmetic itself."""
    for rule in ("average", "momentum", "adagrad", "adam", "yogi"):
        for key, other in {"momentum": 0.5, "second": 0.5, "floor": 0.5}.items():
            moments, values = (np.full(3, 0.2), np.full(3, 0.3)), np.array([0.1, -0.4, 2.0])
            kept = {"average": 0, "momentum": 1}.get(rule, 2)
            steps = [
                moved(
                    Aggregation.model_validate({"rule": rule, **said}),
                    np.zeros(3),
                    moments[:kept],
                    values,
                    np.ones(3, dtype=bool),
                )[0]
                for said in ({}, {key: other})
            ]
            changes = not np.array_equal(*steps)
            try:
                FederationConfig.of({}, {"aggregation.rule": rule, f"aggregation.{key}": other})
            except ConfigError:
                assert not changes, (rule, key)
            else:
                assert changes, (rule, key)


def test_scores_come_anew_only_where_they_pick_what_is_encrypted() -> None:
    said = {"method": "fedml-he", "toy_insecure": True}
    assert FederationConfig.of(said, {"encryption.rescore_every": 5}).encryption.rescore_every == 5
    for wrong in ({"encryption.sensitivity": "magnitude"}, {"encryption.sealed_share": 1.0}):
        with pytest.raises(ConfigError, match="no scores pick what is encrypted"):
            FederationConfig.of(said, {"encryption.rescore_every": 5, **wrong})


def test_the_paper_as_printed_leaves_the_head_open_and_nothing_else() -> None:
    """A file that suits this project's own method does not soften it; what is set by name does."""
    ours = {"decomposition": {"rank": 16, "head": "frozen", "norms": True, "refresh_every": 5, "scaling": "normalised"}}
    found = FederationConfig.of({"method": "dictpfl-paper", "pruning": {"residual_decay": 0.8}, **ours})
    d, p = found.decomposition, found.pruning
    assert (d.rank, d.head, d.scaling, d.refresh_every) == (4, "frozen", "paper", 0)
    assert not any((d.biases, d.norms, d.positions, d.tokens))
    assert (p.s, p.tau, p.beta, p.residual_decay, p.window, p.threshold) == (0.7, 3, 0.2, 1.0, "literal", "sent")
    assert FederationConfig.of({"method": "dictpfl-paper"}, {"decomposition.rank": 8}).decomposition.rank == 8
    assert FederationConfig.of({"method": "dictpfl-paper"}).decomposition.head == "dense"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_preset_lies_over_any_file(method: str) -> None:
    """What belongs to the choices of a file that the preset turns over is left behind, whatever the file says of them."""
    for said in (
        {"aggregation": {"rule": "yogi", "rate": 0.01, "second": 0.9, "floor": 0.01}},
        {"pruning": {"schedule": "logistic", "budget": {"values": 9000}}},
        {"pruning": {"quota": 3, "kinds": ["table"]}},
        {"decomposition": {"refresh_every": 3, "refresh_ranks": [4, 2]}},
        {"decomposition": {"allocator": "layerif", "scores": "layers.json", "rank_max": 8, "rank_min": 2}},
    ):
        FederationConfig.of({"method": method, "toy_insecure": True, **said})
    rescored = {"encryption": {"sealed_share": 0.1, "rescore_every": 2}, "toy_insecure": True}
    whole = {"decomposition": {"last_layers": 1}, "toy_insecure": True}
    if method == "plaintext":
        assert FederationConfig.of({"method": method, **rescored}).encryption.rescore_every == 0
    if method in ("plaintext", "fedhe-full", "fedml-he"):
        assert FederationConfig.of({"method": method, **whole}).decomposition.last_layers == 0, "every parameter"
        assert (
            FederationConfig.of({"method": method, **whole}, {"decomposition.last_layers": 1}).decomposition.last_layers
            == 1
        )
    if method == "dictpfl-paper":
        found = FederationConfig.of({"method": method, "pruning": {"quota": 3, "kinds": ["table"]}})
        assert (found.pruning.quota, found.pruning.kinds, found.aggregation) == (0, ["table", "dense"], Aggregation())


# What earlier releases named


@pytest.mark.parametrize(("given", "expected"), [("auto", "steps"), ("always", "steps")])
def test_seeded_sums_of_a_saved_configuration_are_read(given: str, expected: str) -> None:
    config = FederationConfig.of({"encryption": {"seeded_sums": given}})
    assert config.encryption.pad_to == expected
    assert "seeded_sums" not in config.model_dump(mode="json")["encryption"]


def test_sums_without_seeds_are_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"seeded_sums is 'never', but sums always carry seeds since protocol 4; remove the line"
    ):
        FederationConfig.of({"encryption": {"seeded_sums": "never"}})


@pytest.mark.parametrize(
    ("encryption", "expected"),
    [({"pad_uploads": True}, "full"), ({"pad_uploads": False}, "none"), ({}, "steps"), ({"pad_to": "steps"}, "steps"),
     ({"pad_uploads": True, "pad_to": "steps"}, "steps")],
    ids=str,
)  # fmt: skip
def test_former_padding_is_read(encryption: dict[str, object], expected: str) -> None:
    config = FederationConfig.of({"encryption": encryption})
    assert config.encryption.pad_to == expected
    assert FederationConfig.model_validate(config.model_dump(mode="json")) == config


def test_padding_is_one_of_three() -> None:
    with pytest.raises(ConfigError, match="pad_to"):
        FederationConfig.of({"encryption": {"pad_to": "twice"}})
    assert "pad_uploads" not in known_keys()
    assert "seeded_sums" not in known_keys()


TALLIED = {"tallies.opening": ["classes"], "tallies.closing": ["x:Y"]}


def test_tallies_are_read() -> None:
    config = FederationConfig.of({}, {**TALLIED, "tallies.options": {"classes": {"split": "validation"}}})
    assert (config.tallies.opening, config.tallies.closing) == (["classes"], ["x:Y"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"federation.participants": 2, "federation.min_participants": 2, "toy_insecure": True},
            "fewer than 3 vectors tells each",
        ),
        (
            {"federation.participants": 5, "federation.min_participants": 2, "toy_insecure": True},
            "min_participants is 2.* raise it to 3",
        ),
        ({"privacy.mechanism": "example", "privacy.epsilon": 8.0}, "no epsilon counts tallies"),
        ({"privacy.mechanism": "institution", "privacy.noise_multiplier": 1.0}, "no epsilon counts tallies"),
        ({"federation.participants": 9, "federation.sample": 4}, "a round asks a sample of them"),
        (
            {"encryption.sealed_share": 0.3, "encryption.rescore_every": 2, "toy_insecure": True},
            "could not tell scores that come anew from closing tallies",
        ),
        ({"tallies.opening": ["a", "b", "a"]}, r"tallies.opening names a tally twice: \['a', 'b', 'a'\]"),
        ({"tallies.closing": ["a", "a"]}, "tallies.closing names a tally twice"),
        ({"tallies.options": {"other": {}}}, r"tallies.options has \['other'\], which neither"),
    ],
    ids=str,
)
def test_tallies_that_would_tell_of_one_institution_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FederationConfig.of({}, {**TALLIED, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"federation.participants": 2, "federation.min_participants": 2, "toy_insecure": True},
            "fewer than 3 histograms",
        ),
        ({"federation.participants": 9, "federation.sample": 4}, "tell them apart"),
        ({"privacy.mechanism": "example", "privacy.epsilon": 8.0}, "nobody would be told a figure"),
        ({"training.metrics": ["auroc", "auroc"]}, "names a metric twice"),
    ],
    ids=str,
)
def test_metrics_that_would_tell_of_one_institution_or_nobody_are_refused(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        FederationConfig.of({}, {"training.metrics": ["auroc"], **changes})
    private = {"privacy.mechanism": "example", "privacy.epsilon": 8.0, "privacy.figures": True}
    assert FederationConfig.of({}, {"training.metrics": ["auroc"], **private}).training.metrics == ["auroc"]


@pytest.mark.parametrize("task", ["causal-lm", "sequence-to-sequence"])
@pytest.mark.parametrize("key", ["training.metric", "training.metrics"])
def test_metrics_that_compare_with_another_place_are_refused(task: str, key: str) -> None:
    """A model that foretells every token had an accuracy of chance by `confusion`: outputs were held against their own places."""

    def asked(task: str, metric: str, **more: object) -> FederationConfig:
        named = [metric] if key.endswith("s") else metric
        return FederationConfig.of({}, {"training.task": task, key: named, **more})

    for metric in ("accuracy", "auroc", "calibration", "class-distance", "confusion", "kappa", "tag-accuracy"):
        with pytest.raises(ConfigError, match=rf"foretells the token behind its place, and the metric '{metric}'"):
            asked(task, metric)
    for metric in ("perplexity", "sequence-accuracy", "token-accuracy"):
        assert asked(task, metric).training.task == task
        with pytest.raises(ConfigError, match=r"token at its own place, .* choose from tag-accuracy"):
            asked("token-classification", metric)
    assert asked("token-classification", "tag-accuracy")
    taught = {"distillation.task": task, "distillation.teacher": "run"}
    if task == "causal-lm":
        with pytest.raises(ConfigError, match="foretells"):
            asked("distillation", "confusion", **taught)


@pytest.mark.parametrize("metric", ["absolute-error", "r2"])
@pytest.mark.parametrize("key", ["training.metric", "training.metrics"])
def test_errors_of_log_odds_are_refused(metric: str, key: str) -> None:
    named = [metric] if key.endswith("s") else metric
    with pytest.raises(ConfigError, match=rf"log odds of a label, and the metric '{metric}'"):
        FederationConfig.of({}, {"training.task": "multi-label", key: named})
    assert FederationConfig.of({}, {"training.task": "regression", key: named})


def test_without_tallies_none_of_that_is_refused() -> None:
    for changes in (
        {"federation.participants": 2, "federation.min_participants": 2, "toy_insecure": True},
        {"federation.participants": 9, "federation.sample": 4},
        {
            "encryption.sealed_share": 0.3,
            "encryption.rescore_every": 2,
            "toy_insecure": True,
            "tallies.opening": ["classes"],
        },
    ):
        assert FederationConfig.of({}, changes).federation.participants
