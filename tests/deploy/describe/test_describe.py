"""`dictpfl describe`: its numbers are those of the run, its reasons the rules', and what should be looked at is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dictpfl.client.privacy.dpsgd
from dictpfl.client.model.build import build_model
from dictpfl.common.errors import ModelError
from dictpfl.common.settings import Model
from dictpfl.deploy.describe.description import Description, describe
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import as_toml, encrypted
from tests.support.typed import typed

pytestmark = pytest.mark.usefixtures("quiet")
HERE = __name__


class Recurrent(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x.reshape(len(x), 8, 8))[0][:, -1])


class Raw(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inward = nn.Parameter(torch.randn(64, 24) / 8)
        self.out = nn.Linear(24, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out((x.flatten(1) @ self.inward).relu())


def raw(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Raw(outputs)


def recurrent(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Recurrent(outputs)


def lazy(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, outputs))


def unreached(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 99), nn.Flatten(), nn.LazyLinear(outputs))


def half(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs)).to(torch.bfloat16)


def fixed(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    made = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs)
    )
    made[1].weight.requires_grad_(False)
    return made


def of(source: str, **changes: Any) -> Description:
    return describe(encrypted(model__source=f"{HERE}:{source}", model__options={}, **changes))


def roles(found: Description) -> dict[str, tuple[str, str]]:
    return {row.name: (row.role, row.why) for row in found.rows}


def test_its_bytes_are_those_of_the_run(tmp_path: Path) -> None:
    config = encrypted(federation__rounds=2, pruning__enabled=False, model__options={"hidden": [48, 48]})
    found, run = describe(config), simulate(config, tmp_path / "run", engine="local")
    updates = [record for record in run.records if record.kind == "update"]
    assert [record.bytes_up for record in updates] == [found.first, found.upload]
    assert sum(row.shared for row in found.rows) == run.summary["values"]["shared"]
    assert found.facts()["values"]["model"] == run.summary["values"]["model"]
    assert found.plaintext == 4 * run.summary["values"]["model"]
    assert sum(row.bytes for row in found.rows) == pytest.approx(found.upload, abs=len(found.rows))
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        ("gate", {"narrow__axes": ["ffn"], "narrow__keep": 0.5, "decomposition__enabled": False, "decomposition__frozen": ["*"]}),
        ("thresholds", {"sparsity__method": "lua", "sparsity__target": 0.5}),
    ],
)  # fmt: skip
def test_gates_and_thresholds_are_described_as_what_they_are(
    role: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Gates alone are trained in the one, and were refused here as nothing at all; thresholds were called too large for tables."""
    config = encrypted(federation__rounds=2, pruning__enabled=False, model__options={"hidden": [48, 48]}, **settings)
    found, run = describe(config), simulate(config, tmp_path / "run", engine="local")
    updates = [record for record in run.records if record.kind == "update"]
    assert [record.bytes_up for record in updates] == [found.first, found.upload]
    counts = found.facts()["values"]
    assert (counts["model"], counts["shared"]) == (run.summary["values"]["model"], run.summary["values"]["shared"])
    assert sum(row.shared for row in found.rows if row.role == role) == counts["shared"] == 96
    assert all("would be as large" not in row.why for row in found.rows)


def test_samples_are_those_of_the_skill() -> None:
    skill = {"model__source": "vit_tiny", "model__options": {}, "narrow__axes": ["ffn"], "data__limit": 0}
    every, own = describe(encrypted(**skill)), describe(encrypted(**skill, narrow__classes=[3]))
    assert 0 < own.samples < every.samples / 5, "about a tenth of the digits are threes"


def test_what_nothing_covers_is_said_and_can_be_named() -> None:
    found = of("raw")
    assert roles(found)["inward"] == ("dense", "no layer type covers it in Raw")
    assert roles(found)["out.weight"] == ("dense", 'the head: decomposition.head = "dense"')
    text = " ".join(found.warnings)
    assert "nothing is decomposed" in text
    assert "inward (1,536 values)" in text
    named = of("raw", decomposition__tables=["inw*"])
    assert roles(named)["inward"] == ("table", "a table of rank 4 for 64 x 24")
    assert "nothing is decomposed" not in " ".join(named.warnings)
    assert named.upload < found.upload


def test_recurrent_weights_have_tables_and_learn(tmp_path: Path) -> None:
    assert roles(of("recurrent"))["rnn.weight_hh_l0"] == ("table", "a table of rank 4 for 32 x 8")
    config = encrypted(model__source=f"{HERE}:recurrent", model__options={}, federation__rounds=2)
    run = simulate(config, tmp_path / "run", engine="local")
    assert {"rnn.weight_hh_l0", "rnn.weight_ih_l0"} <= set(run.records[-1].sent_by_tensor)
    assert sorted(load_file(run.model_path)) == sorted(Recurrent(10).state_dict())


def test_a_frozen_parameter_of_the_model_stays(tmp_path: Path) -> None:
    found = of("fixed")
    assert roles(found)["1.weight"] == ("frozen", "requires_grad is False in the model")
    assert roles(found)["3.weight"][0] == "table"
    assert "1 parameter has requires_grad = False" in " ".join(found.warnings)
    assert roles(of("fixed", decomposition__dense=["1.weight"]))["1.weight"] == (
        "dense",
        'decomposition.dense = "1.weight"',
    )
    config = encrypted(model__source=f"{HERE}:fixed", model__options={}, federation__rounds=1)
    run = simulate(config, tmp_path / "run", engine="local")
    before = build_model(config.model, (1, 8, 8), 10, config.seed).state_dict()
    after = load_file(run.model_path)
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])


def test_a_rank_that_restricts_nothing_is_said() -> None:
    found = of("fixed", decomposition__rank=16, decomposition__head="decomposed", decomposition__orientation="paper")
    assert roles(found)["3.weight"][1] == "a table of rank 16 would be as large"
    found = describe(
        encrypted(model__options={"hidden": [200, 4]}, decomposition__rank=4, decomposition__orientation="smaller")
    )
    assert any("is that of the whole matrix for" in warning for warning in found.warnings)


def test_where_it_does_not_pay_is_said() -> None:
    found = describe(encrypted(data__source="breast_cancer", data__limit=0, model__options={"hidden": []}))
    assert found.upload >= found.plaintext
    assert any("pays in bytes from about" in warning for warning in found.warnings)


def test_lazy_and_half_precision_models_are_built(tmp_path: Path) -> None:
    for source in ("lazy", "half"):
        model = build_model(Model(source=f"{HERE}:{source}"), (1, 8, 8), 10, 1)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert sum(p.numel() for p in model.parameters()) == 64 * 16 + 16 + 160 + 10
        again = build_model(Model(source=f"{HERE}:{source}"), (1, 8, 8), 10, 1)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ModelError, match="lazy layers, whose shapes a sample of shape"):
        build_model(Model(source=f"{HERE}:unreached"), (1, 8, 8), 10, 1)
    run = simulate(
        encrypted(model__source=f"{HERE}:half", model__options={}, federation__rounds=1),
        tmp_path / "run",
        engine="local",
    )
    assert run.summary["test"] > 0


def test_as_typed(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(as_toml(), encoding="utf-8")
    facts = json.loads(typed("describe c.toml --json", tmp_path))
    assert facts["insecure"] == []
    assert {row["role"] for row in facts["parameters"]} == {"table", "dense"}
    assert facts["bytes"]["round"] < facts["bytes"]["first"]
    assert list(tmp_path.iterdir()) == [tmp_path / "c.toml"]
    assert "bytes up a round" in typed("describe c.toml", tmp_path)


def test_a_task_that_says_its_own_outputs(tmp_path: Path) -> None:
    """As typed, for a configuration that `dictpfl simulate` runs: outputs are those of the task, not of the table."""
    rows = "\n".join(f"{n % 7},{n % 5},{1 + n % 11},{n % 2}" for n in range(60))
    (tmp_path / "t.csv").write_text("a,b,months,died\n" + rows + "\n", encoding="utf-8")
    (tmp_path / "c.toml").write_text(
        """
        data = { source = "csv", path = "t.csv", label = "months", options = { event = "died" } }
        model = { source = "mlp", options = { hidden = [8] } }
        training = { task = "discrete-survival", task_options = { edges = [3, 6, 9] } }
        """,
        encoding="utf-8",
    )
    facts = json.loads(typed("describe c.toml --json", tmp_path))
    assert [row["shape"] for row in facts["parameters"]][-1] == [3]


def test_a_metric_of_another_task_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"training\.metrics: 'r2' does not go with this task"):
        describe(encrypted(training__metrics=["confusion", "r2"]))


class Pair(Raw):
    """Returns its outputs and something beside them, as many published models do."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), {}


def pair(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Pair(outputs)


def test_a_model_that_returns_more_than_outputs_is_told_so() -> None:
    with pytest.raises(ModelError, match="the model returned tuple; expected a tensor of outputs"):
        describe(encrypted(model__source=f"{HERE}:pair", model__options={}))


def test_a_curve_that_founding_measures_is_described() -> None:
    options = {"adapt": "own", "gamma": "measured"}
    found = describe(
        encrypted(
            model__source="vit_tiny", model__options={"patch": 2, "dim": 16, "depth": 3, "heads": 2},
            tokens__reducer="autoprune", tokens__keep=0.5, tokens__options=options,
        )
    )  # fmt: skip
    assert found.upload > 0


def test_ranks_are_those_that_an_allocator_chose(tmp_path: Path) -> None:
    """And a tally after the last round is told of, as those before the first are."""
    blocks = {
        name: {"weights": [f"{name}.weight"], "influence": share, "gradient": 0.5}
        for name, share in (("1", 0.9), ("3", 0.1))
    }
    said = {
        "when": "own",
        "of": "it",
        "solver": "exact",
        "damping": 0.1,
        "part": "positive",
        "top": 0.25,
        "training": 8,
    }
    scores = tmp_path / "layers.json"
    scores.write_text(json.dumps(said | {"validation": 8, "institutions": 0, "blocks": blocks}))
    found = describe(
        encrypted(
            model__options={"hidden": [64, 64]}, decomposition__rank=4, decomposition__allocator="layerif",
            decomposition__scores=str(scores), tallies__closing=["layerif"],
        )
    )  # fmt: skip
    said_ranks = {row.name: int(row.why.split()[4]) for row in found.rows if row.role == "table"}
    assert said_ranks == {row.name: row.shared // 64 for row in found.rows if row.role == "table"}
    assert len(set(said_ranks.values())) == 2, "these scores move a rank"
    assert (found.statistics, found.closing) == ((), ("layerif",))


def test_private_training_is_timed_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients sample by sample take several times as long: the time of ordinary training was told."""
    called = []
    real = dictpfl.client.privacy.dpsgd.train_privately

    def private(*given: Any, **named: Any) -> Any:
        called.append(named["noise"])
        return real(*given, **named)

    monkeypatch.setattr(dictpfl.client.privacy.dpsgd, "train_privately", private)
    private_ = {"privacy__mechanism": "example", "privacy__epsilon": 8.0, "data__limit": 200}
    found = describe(encrypted(**private_))
    assert len(called) == 2
    assert found.train_seconds > 0
