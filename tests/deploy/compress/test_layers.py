"""`dictpfl audit layers`, ranks and zeros by its scores: as one types them."""

from __future__ import annotations

import itertools
import json
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dictpfl.client.compress.influence.layers import layer_influence
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.scored import read_scores
from dictpfl.client.tallies.layerif import LayerIF
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.pruning import read_figures
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import as_toml, encrypted, tiny
from tests.support.harness import World, dies_at_once, dies_replying

pytestmark = pytest.mark.usefixtures("quiet")
TALLIED = {
    "tallies__opening": ["layerif"],
    "tallies__closing": ["layerif"],
    "tallies__options": {"layerif": {"samples": 16, "validation": 8}},
    "model__options": {"hidden": [24, 24, 24]},
    "federation__rounds": 1,
    "data__public_share": 0.2,
    "training__batch_size": 16,
}

UNTALLIED = TALLIED | {"tallies__opening": [], "tallies__closing": [], "tallies__options": {}, "federation__rounds": 2}


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(encrypted(**UNTALLIED), tmp_path_factory.mktemp("uniform") / "run", engine="local")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same federation, in clear and encrypted, recorded."""
    folder = tmp_path_factory.mktemp("layers")
    clear = simulate(tiny(**TALLIED), folder / "clear", engine="local")
    return clear, simulate(encrypted(**TALLIED), folder / "ckks", engine="local", record=True)


@pytest.fixture(scope="module")
def scores(runs: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "map"
    ran("audit", "layers", runs[1].folder, "-o", folder)
    return folder / "layers-opening.json"


def ran(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_the_map_is_the_same_encrypted_and_costs_one_ciphertext(runs: tuple[Run, Run]) -> None:
    clear, sealed = runs
    assert clear.summary["state_digest"] == sealed.summary["state_digest"]
    assert clear.summary["tallies"] == sealed.summary["tallies"]
    rounds = [record for record in sealed.records if record.kind == "score"]
    assert [record.ciphertexts for record in rounds] == [1, 1]
    assert not [check for check in audited(sealed.folder) if check.verdict == "FAILED"]


def test_the_command_shows_what_institutions_tallied(runs: tuple[Run, Run], tmp_path: Path) -> None:
    said = ran("audit", "layers", runs[1].folder, "-o", tmp_path / "map")
    assert "3 institutions together" in said
    opening, closing = (read_scores(tmp_path / "map" / f"layers-{when}.json") for when in ("opening", "closing"))
    assert read_scores(tmp_path / "map" / "layers.json") == closing
    assert list(opening.blocks) == ["1", "3", "5"]
    assert [block.weights for block in opening.blocks.values()] == [["1.weight"], ["3.weight"], ["5.weight"]]
    for scores in (opening, closing):
        assert sum(block.influence for block in scores.blocks.values()) == pytest.approx(1.0)
        assert sum(block.gradient for block in scores.blocks.values()) == pytest.approx(1.0)
    assert opening.blocks != closing.blocks
    tally = runs[1].summary["tallies"][0]
    sums = [tally["sums"][f"influence/{name}"][0] for name in opening.blocks]
    assert [b.influence for b in opening.blocks.values()] == [s / sum(sums) for s in sums]
    assert (tmp_path / "map" / "layers.svg").read_text().startswith("<svg")
    assert "influence, opening" in (tmp_path / "map" / "layers.svg").read_text()
    assert "solver exact" in (tmp_path / "map" / "layers.svg").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "map").iterdir()} == {0o600}
    assert "Layers that the task moves" in (runs[1].folder / "report.html").read_text()
    ran("audit", "layers", runs[1].folder, "-o", tmp_path / "own", "--own", "--training", 20, "--device", "cpu")
    own = read_scores(tmp_path / "own" / "layers.json")
    assert (own.when, own.institutions, own.training) == ("own", 0, 20)


def contents(folder: Path, but: Path) -> dict[Path, bytes]:
    """All files of a run outside one institution's folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and but not in path.parents}


def test_samples_are_listed_in_the_institution_s_folder_alone(runs: tuple[Run, Run], tmp_path: Path) -> None:
    home = runs[0].folder / "institutions" / "institution-001"
    others = contents(runs[0].folder, home)
    said_sent = (home / "diary.jsonl").read_bytes()
    ran("audit", "layers", home, "-o", tmp_path / "map", "--list", "--training", 0, "--device", "cpu")
    listed = json.loads((home / "influence.json").read_bytes())
    rows = listed["samples"]
    assert stat.S_IMODE((home / "influence.json").stat().st_mode) == 0o600
    assert sorted(row["row"] for row in rows) == list(range(len(rows)))
    values = [row["influence"] for row in rows]
    assert values == sorted(values, reverse=True)
    with np.load(home / "train.npz") as file:
        assert [row["label"] for row in rows] == file["labels"][[row["row"] for row in rows]].tolist()
    assert contents(runs[0].folder, home) == others, (
        "nobody else's file is written, the coordinator's journal least of all"
    )
    assert (home / "diary.jsonl").read_bytes() == said_sent, "the record of egress has no new line"
    assert not any("label" in text.read_text() for text in (tmp_path / "map").glob("*.json"))
    said = ran("audit", "layers", runs[0].folder, "-o", tmp_path / "none", "--list", code=1)
    assert "error" in said or said == ""


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["layerif", "reversed", "random", "gradient"])
def test_ranks_by_scores_cost_what_uniform_ones_do(allocator: str, scores: Path, uniform: Run, tmp_path: Path) -> None:
    """Equal digests with and without encryption, as many ciphertexts as uniform ranks in every round, and no path in genesis."""
    chosen = UNTALLIED | {"decomposition__allocator": allocator, "decomposition__scores": str(scores)}
    sealed = simulate(encrypted(**chosen), tmp_path / "sealed", engine="local")
    assert sealed.summary["trained"]["values"] == uniform.summary["trained"]["values"], "the budget is spent exactly"
    assert [r.ciphertexts for r in sealed.records] == [r.ciphertexts for r in uniform.records]
    genesis = Genesis.load(sealed.folder / "institutions" / "institution-000")
    assert genesis.config.decomposition.scores.startswith("sha256:")
    assert str(scores) not in (sealed.folder / "institutions" / "institution-000" / "genesis.json").read_text()
    ranks = {name: d.rank for name, d in genesis.dictionaries.items()}
    if allocator == "layerif":
        found = read_scores(scores).by_weight("influence")
        assert len(set(ranks.values())) > 1, "these scores differ enough to move a rank"
        low, high = sorted(("3.weight", "5.weight"), key=found.__getitem__)  # of equal shapes
        assert ranks[low] <= ranks[high]
        clear = simulate(tiny(**chosen), tmp_path / "clear", engine="local")
        assert clear.summary["state_digest"] == sealed.summary["state_digest"]
        assert clear.summary["federation"] == sealed.summary["federation"]


@pytest.mark.slow
def test_other_data_cost_as_many_ciphertexts(scores: Path, uniform: Run, tmp_path: Path) -> None:
    """Of the tally, and of every round with ranks by scores: lengths say nothing of what institutions hold."""
    other = {"seed": 7, "data__partition": "dirichlet", "data__alpha": 0.5}
    tallied = [
        simulate(tiny(**TALLIED | more), tmp_path / name, engine="local")
        for name, more in (("one", {}), ("two", other))
    ]
    assert tallied[0].summary["tallies"] != tallied[1].summary["tallies"]
    assert len({tuple(r.ciphertexts for r in run.records) for run in tallied}) == 1
    mapped = tmp_path / "map"
    ran("audit", "layers", tallied[1].folder, "-o", mapped)
    for number, named in enumerate((scores, mapped / "layers.json")):
        chosen = UNTALLIED | {"decomposition__allocator": "layerif", "decomposition__scores": str(named)}
        run = simulate(encrypted(**chosen | (other if number else {})), tmp_path / f"run-{number}", engine="local")
        assert [r.ciphertexts for r in run.records] == [r.ciphertexts for r in uniform.records]


def test_a_latecomer_and_one_that_was_killed_hold_the_same_map_and_ranks(scores: Path, tmp_path: Path) -> None:
    """The map by replay of the tally's sum; the ranks because genesis says them."""
    chosen = TALLIED | {
        "federation__participants": 4, "federation__rounds": 2, "decomposition__allocator": "layerif", "decomposition__scores": str(scores),
    }  # fmt: skip
    world = World.found(tiny(**chosen), tmp_path / "world")
    for point in (dies_replying, dies_at_once, nullcontext):
        world.exchange({1: point}, offline=[3])
    world.run()
    assert len({repr(state.tallies) for state in world.states()}) == 1
    assert world.states()[3].tallies
    ranks = [Genesis.load(world.home(node)).dictionaries for node in world.nodes]
    assert len({tuple(sorted((name, d.rank) for name, d in one.items())) for one in ranks}) == 1
    assert len({d.rank for d in ranks[3].values()}) > 1
    world.digest()
    world.close()


def test_institutions_with_other_numbers_of_threads_stay_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of another order round otherwise: only an institution's own scores differ, and what is shared is their sum."""
    plain, used, own = LayerIF.local, itertools.cycle([1, 2]), []

    def local(source: LayerIF, *given: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(next(used))
        own.append((torch.get_num_threads(), plain(source, *given)))
        torch.set_num_threads(before)
        return own[-1][1]

    monkeypatch.setattr(LayerIF, "local", local)
    world = World.found(tiny(**TALLIED), tmp_path / "world")
    world.run()
    assert [threads for threads, _ in own] == [1, 2, 1, 2, 1, 2], (
        "three institutions, before the first update and after the last"
    )
    assert len(set(world.digests())) == 1
    assert len({repr(state.tallies) for state in world.states()}) == 1
    world.close()


def test_threads_move_a_score_in_its_last_bits_alone() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Tanh(), torch.nn.Linear(256, 4)
    )
    draw, before, found = np.random.default_rng(0), torch.get_num_threads(), []
    training, validation = (
        Samples(draw.normal(size=(n, 64)).astype(np.float32), draw.integers(0, 4, n)) for n in (48, 24)
    )
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(layer_influence(model, training, validation, load_task("classification")).scores)
    torch.set_num_threads(before)
    assert list(found[0].values()) == pytest.approx(list(found[1].values()), rel=1e-3)


def test_scores_of_one_block_are_refused_for_ranks(scores: Path, tmp_path: Path) -> None:
    """A map of one block may be looked at; there is nothing to divide by it."""
    found = json.loads(scores.read_bytes())
    name, block = next(iter(found["blocks"].items()))
    alone = tmp_path / "layers.json"
    alone.write_text(json.dumps(found | {"blocks": {name: block}}))
    chosen = UNTALLIED | {"decomposition__allocator": "layerif", "decomposition__scores": str(alone)}
    with pytest.raises(ConfigError, match=f"of the block {name} alone"):
        simulate(tiny(**chosen), tmp_path / "run", engine="local")


@pytest.mark.parametrize("allocate", ["layerif", "reversed", "random", "gradient"])
def test_zeros_by_scores_are_as_many(allocate: str, runs: tuple[Run, Run], scores: Path, tmp_path: Path) -> None:
    ran(
        "prune",
        runs[0].folder,
        "-o",
        tmp_path / "out",
        "--sparsity",
        0.6,
        "--allocate",
        allocate,
        "--scores",
        scores,
        "--device",
        "cpu",
    )
    figures = read_figures(tmp_path / "out")
    assert figures["allocate"] == allocate
    assert figures["kept"] == figures["entries"] - figures["entries"] * 6 // 10
    if allocate == "layerif":
        shares = {name: 1 - block["kept"] / block["entries"] for name, block in figures["blocks"].items()}
        found = read_scores(scores).by_weight("influence")
        most = max(found, key=found.__getitem__).partition(".")[0]
        assert shares[most] == max(shares.values()), "the higher the score, the more is pruned"
        ran(
            "prune",
            runs[0].folder,
            "-o",
            tmp_path / "own",
            "--sparsity",
            0.6,
            "--allocate",
            allocate,
            "--device",
            "cpu",
        )


def test_scores_of_another_model_divide_no_zeros(runs: tuple[Run, Run], scores: Path, tmp_path: Path) -> None:
    """Even where they are of all its blocks; those that --keep leaves whole may well be among them."""
    found = json.loads(scores.read_bytes())
    block = next(iter(found["blocks"].values()))
    foreign = tmp_path / "layers.json"
    foreign.write_text(json.dumps(found | {"blocks": found["blocks"] | {"encoder.9": block}}))
    words = ("prune", runs[0].folder, "-o", tmp_path / "out", "--allocate", "layerif", "--device", "cpu", "--scores")
    with pytest.raises(AssertionError, match=r"ConfigError.*it has no encoder\.9"):
        ran(*words, foreign)
    ran(*words, scores, "--keep", f"{next(iter(found['blocks']))}.weight")


def test_options_that_nobody_reads_are_refused(runs: tuple[Run, Run], scores: Path, tmp_path: Path) -> None:
    from dictpfl.deploy.compress.pruning import scoring

    for options in (["--solver", "none"], ["--training", "8"], ["--top", "1"], ["--seed", "2"]):
        with pytest.raises(AssertionError, match=r"ConfigError.*institutions tallied"):
            ran("audit", "layers", runs[0].folder, "-o", tmp_path / "map", *options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    home = runs[0].folder / "institutions" / "institution-000"
    (home / "influence.json").unlink(missing_ok=True)
    with pytest.raises(AssertionError, match=r"ConfigError.*holds something"):
        ran("audit", "layers", home, "-o", tmp_path / "full", "--list")
    assert not (home / "influence.json").exists()
    for options in (["--data", home / "validation.npz"], ["--set", "data.limit=5"]):
        with pytest.raises(AssertionError, match=r"ConfigError.*institution's own training samples"):
            ran("audit", "layers", home, "-o", tmp_path / "other", "--list", *options)
    assert not (home / "influence.json").exists()

    with pytest.raises(ConfigError, match="--allocate is 'uniform'"):
        scoring("uniform", scores, None)
    with pytest.raises(ConfigError, match="--allocate is 'alpha'"):
        scoring("alpha", scores, None)
    with pytest.raises(ConfigError, match=r"--spread says.*--allocate is 'owl'"):
        scoring("owl", None, 0.2)
    assert scoring("alpha", None, 0.2) == {"spread": 0.2}
    with pytest.raises(ConfigError, match="holds no scores"):
        scoring("layerif", runs[0].folder / "summary.json", None)
    for said, words in (
        ({"decomposition.allocator": "layerif"}, "name their file"),
        ({"decomposition.scores": "x.json"}, "read by allocators"),
        ({"decomposition.rank_max": 8}, "read by allocators"),
        ({"decomposition.allocator": "random", "decomposition.scores": "x", "decomposition.rank_max": 2}, "rank_max"),
        (
            {"decomposition.allocator": "layerif", "decomposition.scores": "x", "decomposition.refresh_ranks": [2]},
            "refresh_ranks",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            FederationConfig.of({}, said)
    assert as_toml()
    with pytest.raises(ConfigError, match="audit layers"):
        simulate(
            tiny(decomposition__allocator="layerif", decomposition__scores=str(tmp_path / "none")),
            tmp_path / "run",
            engine="local",
        )


def test_the_configuration_that_founded_a_run_by_scores_resumes_it(scores: Path, tmp_path: Path) -> None:
    """It names a path, and genesis the digest of what lay there; other scores are another configuration."""
    chosen = tiny(**UNTALLIED, decomposition__allocator="layerif", decomposition__scores=str(scores))
    whole = simulate(chosen, tmp_path / "run", engine="local")
    again = simulate(chosen, tmp_path / "run", engine="local", resume=True)
    assert again.summary["state_digest"] == whole.summary["state_digest"]
    other = tmp_path / "other.json"
    document = json.loads(scores.read_text())
    other.write_text(json.dumps(document | {"of": "another"}))
    changed = tiny(**UNTALLIED, decomposition__allocator="layerif", decomposition__scores=str(other))
    with pytest.raises(ConfigError, match=r"holds a run of another configuration: decomposition\.scores is 'sha256:"):
        simulate(changed, tmp_path / "run", engine="local", resume=True)


def test_a_task_without_losses_of_single_samples_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{1 + i % 11},{i % 2}" for i in range(90)]
    (tmp_path / "table.csv").write_text("\n".join(["one,two,days,died", *rows]) + "\n", encoding="utf-8")
    survival = FederationConfig.of(
        {},
        {
            "federation.participants": 3, "data.source": "csv", "data.path": str(tmp_path / "table.csv"), "data.label": "days",
            "data.options": {"event": "died"}, "model.source": "mlp", "model.options": {"hidden": [8, 8]}, "training.task": "cox",
            "training.batch_size": 16, "data.public_share": 0.0, "tallies.closing": ["layerif"], "toy_insecure": True,
            "encryption.sealer": "identity", "decomposition.rank": 1,
        },
    )  # fmt: skip
    with pytest.raises(ModelError, match='the tally "layerif" takes the gradient of each sample alone'):
        simulate(survival, tmp_path / "run", engine="local")
    assert not (tmp_path / "run" / "institutions" / "institution-000" / "memory").exists()


def test_clips_are_mapped_too(tmp_path: Path) -> None:
    """Their frames lie behind each other where the model reads patches."""
    clips = simulate(
        tiny(
            data__source="short_events", data__options={"count": 60, "frames": 4, "side": 4, "classes": 3}, data__public_share=0.0,
            model__source="video", model__options={"width": 16, "layers": 2, "heads": 2}, model__pretrain__epochs=0,
            federation__rounds=1, data__validation_share=0.2, training__batch_size=8, decomposition__rank=2,
            tallies__closing=["layerif"], tallies__options={"layerif": {"samples": 6, "validation": 4}},
        ),
        tmp_path / "run",
        engine="local",
    )  # fmt: skip
    said = ran("audit", "layers", clips.folder, "-o", tmp_path / "map")
    assert "patch_embed" in said
    assert sum(read_scores(tmp_path / "map" / "layers.json").by_weight("influence").values()) > 0


def test_a_tally_of_a_federation_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lookup tables"):
        simulate(tiny(**TALLIED, decomposition__enabled=False), tmp_path / "run", engine="local")
