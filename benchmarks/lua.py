"""Lua-LLM and its rivals at equal numbers of zeros, cell by cell: `python benchmarks/lua.py --fashion`, `--vit` or `--language`.

    python benchmarks/lua.py --fashion                 # an MLP on Fashion-MNIST, keep 20 % and 10 %, 3 seeds
    python benchmarks/lua.py --vit                     # the same of vit_tiny, no requirement beforehand
    python benchmarks/lua.py --language                # SmolLM2 (a 4-bit checkpoint) on tales, 60 and 70 %, 3 seeds: hours
    python benchmarks/lua.py --language --quick        # one sparsity, one seed, 30 steps
    python benchmarks/lua.py --fashion --list

Every arm, sparsity and seed is a cell, a JSON file of its own in benchmarks/results/lua; one whose settings are others now is measured
anew, and whatever is interrupted loses one cell. Equal steps and samples are asserted from counters, equal zeros from the weights.
Exit status 0 whatever the figures are; 1 if a number is missing or an arm had other steps, samples or zeros.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dictpfl.client.compress.verdicts import BETTER, compared
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.files import write_private
from dictpfl.common.law.sparsity import kept_count
from dictpfl.deploy.simulation.partition import divide
from dictpfl.deploy.simulation.pretraining import pretrain
from lib.machine import RESULTS, Requirement, machine, markdown_table, preamble, requirement_lines
from lib.sparse import ABOUT, ARMS, Subject, figures

STORE = RESULTS / "lua"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
Cell = tuple[str, float, int, str]
"""Workload, sparsity, seed, arm."""
_TRAINED = ("lua", "equal-steps")
VIT = "vit"
_NETWORKS: dict[str, dict[str, Any]] = {
    "fashion": {},
    VIT: {
        "model.source": "vit_tiny",
        "model.options": {"dim": 64, "depth": 4, "patch": 4},
        "model.pretrain.learning_rate": 1e-3,
    },
}
"""Networks that read pictures: lua_fashion.toml's, and a vision transformer in its place."""


def main() -> int:
    """Measure the cells that are missing, then write the page from what is there."""
    given = _parser().parse_args()
    workload = "language" if given.language else VIT if given.vit else "fashion"
    sparsities: tuple[float, ...] = (0.6, 0.7) if given.language else (0.8, 0.9)
    seeds: tuple[int, ...] = (1, 2, 3)
    if given.quick:
        sparsities, seeds = sparsities[:1], seeds[:1]
    steps = 30 if given.quick else 120 if given.language else 200
    settings = {"steps": steps, "rate": given.rate, "batch": 2 if given.language else 64, "quick": given.quick}
    cells = [(workload, p, seed, arm) for p in sparsities for seed in seeds for arm in ARMS]
    if given.list:
        for cell in cells:
            print(_name(cell), "there" if _stored(cell, settings) else "missing")
        return 0
    for p in sparsities:
        for seed in seeds:
            _measure(workload, p, seed, settings)
    found = {cell: _stored(cell, settings) for cell in cells}
    if missing := [_name(cell) for cell, one in found.items() if one is None]:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    text = "\n".join(_page(workload, found, settings))
    write_private(RESULTS / f"lua_{workload}{'_quick' if given.quick else ''}.md", text.encode())
    print(text)
    return 0


def _measure(workload: str, sparsity: float, seed: int, settings: dict[str, Any]) -> None:
    missing = [arm for arm in ARMS if _stored((workload, sparsity, seed, arm), settings) is None]
    if not missing:
        return
    if workload == "language":
        subject, held = _language(sparsity, seed, settings)
    else:
        subject, held = _fashion(_NETWORKS[workload], sparsity, seed, settings)
    total = sum(w.size for w in subject.weights.values())
    expected = total - kept_count(total, sparsity)
    for arm in missing:
        model = subject.made(arm)
        cell: dict[str, Any] = {
            "settings": settings,
            "figures": {k: figures(subject, model, s) for k, s in held.items()},
        }
        gone = sum(int((w.matrix == 0).sum()) for w in covered(model).values())
        if arm != "dense" and gone < expected:
            raise RuntimeError(f"{arm} has {gone} zeros, expected {expected} or, with zeros of the dense model, more")
        cell |= {"zeros": gone, "counted": subject.counted.get(arm), "machine": machine()}
        write_private(_file((workload, sparsity, seed, arm)), json.dumps(cell, indent=1).encode())
        print(_name((workload, sparsity, seed, arm)), cell["figures"], flush=True)
    both = [subject.counted[arm] for arm in _TRAINED if arm in subject.counted]
    if len(set(both)) > 1:
        raise RuntimeError(f"arms that train had other steps or samples: {subject.counted}")


def _fashion(
    network: dict[str, Any], sparsity: float, seed: int, settings: dict[str, Any]
) -> tuple[Subject, dict[str, Samples]]:
    changes = network | {
        "seed": seed,
        "data.public_share": 0.6,
        "data.partition": "iid",
        "data.limit": 12_000,
        "model.pretrain.epochs": 20,
    }
    if settings["quick"]:
        changes |= {"data.limit": 3000, "model.pretrain.epochs": 5}
    config = FederationConfig.load(EXPERIMENTS / "lua_fashion.toml", changes)
    dataset = load_dataset(config.data, seed)
    parts = divide(dataset, config.data, 3, seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, seed)
    pretrain(model, parts.public, config.model.pretrain, config.training, seed)
    own = parts.institutions[0].train
    return _subject(model, own, "classification", sparsity, seed, settings), {"test": parts.test}


def _language(sparsity: float, seed: int, settings: dict[str, Any]) -> tuple[Subject, dict[str, Samples]]:
    config = FederationConfig.load(EXPERIMENTS / "lua_tales.toml")
    torch.set_num_threads(config.training.threads)
    tales = load_dataset(config.data, seed)
    assert tales.splits is not None, "the tales say what each passage is for"
    own, test = (tales.samples.take(np.flatnonzero(tales.splits == mark)) for mark in ("train", "test"))
    section = config.data.model_copy(
        update={"path": str(Path(config.data.path).with_name("excerpts.parquet")), "column": "", "partition": "iid"}
    )
    excerpts = load_dataset(section.model_copy(update={"limit": 0, "test_limit": 60}), seed).samples
    model = build_model(config.model, tales.sample_shape, tales.outputs, seed)
    held = {"test": test, "elsewhere": excerpts}
    if settings["quick"]:
        held = {name: samples.take(np.arange(8)) for name, samples in held.items()}
    return _subject(model, own, "causal-lm", sparsity, seed, settings), held


def _subject(
    model: torch.nn.Module, own: Samples, task: str, sparsity: float, seed: int, settings: dict[str, Any]
) -> Subject:
    order = np.random.default_rng(seed).permutation(len(own))
    calibration = own.take(np.sort(order[: 8 if settings["quick"] else 64]))
    return Subject(
        model, calibration, own, load_task(task), sparsity=sparsity, steps=settings["steps"], rate=settings["rate"],
        batch_size=settings["batch"], seed=seed,
    )  # fmt: skip


def _page(workload: str, found: dict[Cell, Any], settings: dict[str, Any]) -> Iterator[str]:
    figure, higher = ("loss", False) if workload == "language" else ("metric", True)
    last = next(iter(found.values()))
    yield f"# Lua-LLM on {workload}\n"
    yield from _nulls(workload, found, figure, higher=higher)
    if workload == "language":
        yield "*Dense* means SmolLM2-135M-Instruct's 4-bit checkpoint, widened to float32, not the published float model.\n"
    yield preamble(last["machine"], f"python benchmarks/lua.py --{workload}{' --quick' if settings['quick'] else ''}")
    if stated := _requirements(workload, found):
        yield "\n" + requirement_lines(stated)
    for p in dict.fromkeys(cell[1] for cell in found):
        yield f"\n## {100 * p:g} % zeros\n"
        seeds = list(dict.fromkeys(cell[2] for cell in found))
        lua = _values(found, workload, p, seeds, "lua", figure)
        rows = []
        for arm in ARMS:
            values = _values(found, workload, p, seeds, arm, figure)
            against = compared(lua, values, higher=higher)  # of one seed it shows nothing
            rows.append(
                [arm, ABOUT[arm], f"{np.mean(values):.2f}", "" if arm == "lua" else f"{against} {against.verdict}"]
            )
        yield markdown_table(
            [
                "arm",
                "",
                f"{'accuracy, %' if higher else figure}, mean of {len(seeds)} seeds",
                "lua less it, 95 % interval",
            ],
            rows,
        )
    yield ""


def _nulls(workload: str, found: dict[Cell, Any], figure: str, *, higher: bool) -> Iterator[str]:
    """Say where thresholds did no better than what trains as long, or than one threshold a matrix."""
    seeds = list(dict.fromkeys(cell[2] for cell in found))
    for p in dict.fromkeys(cell[1] for cell in found):
        lua = _values(found, workload, p, seeds, "lua", figure)
        for rival in ("equal-steps", "matrix-means"):
            if compared(lua, _values(found, workload, p, seeds, rival, figure), higher=higher).verdict != BETTER:
                yield f"**Allocation within matrices was not shown to matter at {p:.0%} zeros: Lua is not better than `{rival}` there.**\n"


def _requirements(workload: str, found: dict[Cell, Any]) -> list[Requirement]:
    """Promises of the plan, by sparsity: points of accuracy above rivals, or shares of their perplexity."""
    seeds, made = list(dict.fromkeys(cell[2] for cell in found)), []
    for p in dict.fromkeys(cell[1] for cell in found):
        if workload == "fashion":
            means = {arm: float(np.mean(_values(found, workload, p, seeds, arm, "metric"))) for arm in ARMS}
            pruned, trained = (2.0, 1.0) if p < 0.85 else (8.0, 4.0)
            rival = means["lua"] - max(means["wanda"], means["global-wanda"])
            made.append(
                Requirement(
                    f"{p:.0%} zeros, above the best of Wanda and global Wanda", "at least", pruned, rival, "points"
                )
            )
            equal = means["lua"] - means["equal-steps"]
            made.append(Requirement(f"{p:.0%} zeros, above equal steps", "at least", trained, equal, "points"))
        elif workload == "language":
            loss = {arm: float(np.mean(_values(found, workload, p, seeds, arm, "loss"))) for arm in ARMS}
            for arm, bound in (("wanda", 0.75 if p < 0.65 else 0.7), ("shuffled", 0.75)):
                share = float(np.exp(loss["lua"] - loss[arm]))
                made.append(Requirement(f"{p:.0%} zeros, perplexity as a share of {arm}'s", "at most", bound, share))
    return made


def _values(found: dict[Cell, Any], workload: str, p: float, seeds: list[int], arm: str, figure: str) -> list[float]:
    """Figures of an arm, seed by seed: accuracy in per cent, or the loss."""
    scale = 100 if figure == "metric" else 1
    return [scale * float(found[workload, p, seed, arm]["figures"]["test"][figure]) for seed in seeds]


def _name(cell: Cell) -> str:
    workload, sparsity, seed, arm = cell
    return f"{workload}/{sparsity:g}/{arm}/seed-{seed}"


def _file(cell: Cell) -> Path:
    file = STORE / f"{_name(cell)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _stored(cell: Cell, settings: dict[str, Any]) -> Any:
    """A finished cell of these settings; None where there is none."""
    file = STORE / f"{_name(cell)}.json"
    if not file.exists():
        return None
    one = json.loads(file.read_bytes())
    return one if one["settings"] == settings else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--fashion", action="store_true", help="an MLP on Fashion-MNIST")
    which.add_argument("--vit", action="store_true", help="vit_tiny on Fashion-MNIST")
    which.add_argument("--language", action="store_true", help="SmolLM2 on tales")
    parser.add_argument("--quick", action="store_true", help="one sparsity, one seed, 30 steps")
    parser.add_argument("--rate", type=float, default=1e-2, help="of AdamW on thresholds, and of `equal-steps`")
    parser.add_argument("--list", action="store_true", help="the cells, and whether they are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
