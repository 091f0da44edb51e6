"""MiniLM on 20 Newsgroups, narrowed to the five topics of comp.* by gates in an encrypted federation, against cuts at home.

    python benchmarks/narrow_newsgroups.py              # 3 seeds: hours of two cores; resumes cell by cell
    python benchmarks/narrow_newsgroups.py --quick      # one seed, few samples and steps, for a look; writes nothing
    python benchmarks/narrow_newsgroups.py --list       # the cells, and whether they are there

Needs data/newsgroups.parquet and data/minilm (python experiments/fetch.py). The general model is a federation of
experiments/newsgroups_minilm.toml. Arms: gates in a second federation (experiments/narrow_newsgroups.toml), then recovery on the pooled
samples of the skill; magnitude, random, uncut and scratch on the pooled samples, as many steps before the cut as one institution
took, so that the institutions took more in all: the page says so. A quarter of the feed-forward neurons stays. Then four dropped topics are learnt anew. Nothing was promised: verdicts only.
Every arm and seed is a cell, a line in benchmarks/results/narrow_newsgroups.jsonl; the general model of a seed stands in
`benchmarks/.cells`, and goes on round by round where it was broken off. Each process takes one core.
Results: `benchmarks/results/narrow_newsgroups.{json,md,svg}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.federating import gated_axes, kept_units
from dictpfl.client.compress.narrow.phases import Narrowing, narrow, trained
from dictpfl.client.compress.narrow.relearn import figure, probed, relearnt, verdicts
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import evaluate
from dictpfl.common.config import FederationConfig
from dictpfl.common.settings import Training
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Cells, Study, ahead, claims_table, study_parser
from lib.federations import CELLS
from lib.machine import ROOT, markdown_table, panels, preamble, write_results
from lib.simulated import UNPADDED

DROPPED = ("rec.autos", "sci.med", "sci.space", "talk.politics.guns")
GATES, CEILING, FLOOR = "gates, federated", "general model", "scratch"
WAYS: Mapping[str, str] = {
    CEILING: "",
    GATES: "federated",
    "magnitude": "magnitude",
    "random": "random",
    "uncut": "uncut",
    FLOOR: "scratch",
}
RECOVER, COUNTS = 150, (30, 100)
TABLES: Mapping[str, Any] = {"decomposition.form": "table", "decomposition.rank": 4, "training.learning_rate": 1e-3}
"""Of the general federation, as the experiment had them when this was measured."""
QUICK: Mapping[str, Any] = {"data.limit": 400, "federation.rounds": 1, "training.steps": 4}
LONGEST = 300
"""Most steps of relearning in the other studies of narrow models."""
_TIMED = 64


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm under one seed."""
    quick, recover, counts = bool(arm["quick"]), int(arm["recover"]), tuple(arm["counts"])
    changes = _changes(seed, quick=quick)
    config = FederationConfig.load(ROOT / "experiments" / "narrow_newsgroups.toml", changes)
    torch.set_num_threads(config.training.threads)
    run = _general(seed, quick=quick)
    general, task, narrow_settings = _merged(run), task_of(config.training), config.narrow
    train, test = _pooled(run, config)
    names = load_dataset(config.data, config.seed).class_names
    lost = [names.index(name) for name in DROPPED]
    own, kept_test = train.of_classes(narrow_settings.classes), test.of_classes(narrow_settings.classes)
    home = config.training.model_copy(update={"learning_rate": 1e-4})
    axes, steps = gated_axes(general, narrow_settings), config.federation.rounds * config.training.steps
    model = general
    found: dict[str, Any] = {"steps": 0, "samples": 0}
    if arm["way"] == "federated":
        cut_, facts = _federated(run, changes)
        model, last = trained(cut_, own, task, home.model_copy(update={"steps": recover}), seed)
        found = {**facts, "steps": last.steps, "samples": last.samples_seen, "after": figure(cut_, kept_test, task)}
    elif arm["way"]:
        how = Narrowing(arm["way"], narrow_settings.keep, steps, recover, seed=seed)
        made = narrow(general, axes, own, task, home, how)
        model = made.model
        found = {"steps": made.steps, "samples": made.samples, "after": figure(made.right_after, kept_test, task)}
    old, new = train.of_classes(lost), test.of_classes(lost)
    return found | {
        "kept": figure(model, kept_test, task),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": _seconds(model, kept_test, task),
        "relearnt": _curve(model, old, new, task, home, counts, seed, fresh=False),
        "fresh": _curve(model, old, new, task, home, counts, seed, fresh=True),
        "probe": probed(model, old, new),
    }


def _changes(seed: int, *, quick: bool) -> dict[str, Any]:
    # One thread: two processes side by side take two cores.
    return {**UNPADDED, "seed": seed, "training.threads": 1, **(QUICK if quick else {})}


def _general(seed: int, *, quick: bool = False) -> Path:
    """Run the general federation of a seed, once; what was broken off goes on."""
    from dictpfl.deploy.simulation.simulate import simulate

    changes = {**_changes(seed, quick=quick), **TABLES}
    config = FederationConfig.load(ROOT / "experiments" / "newsgroups_minilm.toml", changes)
    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    folder = CELLS / f"narrow-newsgroups-general-{seed}-{digest}"
    if not (folder / "summary.json").exists():
        simulate(config, folder, engine="local", resume=folder.exists())
    return folder


def _merged(run: Path) -> nn.Module:
    from dictpfl.deploy.exports.finished import Finished

    return Finished.load(run).merged()


def _pooled(run: Path, config: FederationConfig) -> tuple[Samples, Samples]:
    """Put all institutions' training samples together; and the test split."""
    homes = [run / "institutions" / f"institution-{n:03d}" / "train.npz" for n in range(config.federation.participants)]
    parts = [Samples.load(home) for home in homes]
    pooled = Samples(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))
    return pooled, Samples.load(run / "test.npz")


def _federated(run: Path, changes: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Narrow in a second, encrypted federation from the general model; its cut, and what it sent."""
    import tempfile

    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.simulation.simulate import simulate

    with tempfile.TemporaryDirectory(prefix="narrow-") as name:
        weights = Path(name) / "general.safetensors"
        save_file({n: t.contiguous() for n, t in _merged(run).state_dict().items()}, weights)
        config = FederationConfig.load(
            ROOT / "experiments" / "narrow_newsgroups.toml", {**changes, "model.weights": str(weights)}
        )
        done = simulate(config, Path(name) / "run", engine="local")
        finished = Finished.load(done.folder)
        whole = finished.merged()
        axes = gated_axes(whole, config.narrow)
        updates = [record for record in done.records if record.kind == "update"]
        facts = {
            "gates": sum(norms.size for norms in finished.genesis.gates.values()),
            "bytes": fmean(record.bytes_up for record in updates),
            "state_digest": done.summary["state_digest"],
        }
        return cut(whole, kept_units(finished.genesis, finished.state.values, axes)), facts


def _curve(
    model: nn.Module,
    old: Samples,
    new: Samples,
    task: Any,
    training: Training,
    counts: Sequence[int],
    seed: int,
    *,
    fresh: bool,
) -> dict[str, float]:
    found = relearnt(model, old, new, task, training, counts, seed=seed, fresh_head=fresh)
    return {str(count): value for count, value in found.items()}


def _seconds(model: nn.Module, samples: Samples, task: Any) -> float:
    few = samples.take(np.arange(min(_TIMED, len(samples))))
    evaluate(model, few, task)
    began = time.process_time()
    evaluate(model, few, task)
    return (time.process_time() - began) / len(few)


def page(cells: Cells, counts: Sequence[int]) -> str:
    """benchmarks/results/narrow_newsgroups.md."""
    last, rows, judged = counts[-1], [], []
    curves = {
        which: {a: [{int(k): v for k, v in one.items()} for one in cells.of(a, which)] for a in cells.study.arms}
        for which in ("relearnt", "fresh")
    }
    kept, fresh = (verdicts(curves[which], CEILING, FLOOR) for which in ("relearnt", "fresh"))
    for arm in cells.study.arms:
        after = "-" if arm == CEILING else f"{fmean(cells.of(arm, 'after')):.1f}"
        rows.append(
            [arm, f"{cells.of(arm, 'parameters')[0]:,}", f"{1e3 * fmean(cells.of(arm, 'seconds')):.1f}", after, f"{fmean(cells.of(arm, 'kept')):.1f}",
             *(f"{fmean(one[c] for one in curves[w][arm]):.1f}" for w in ("relearnt", "fresh") for c in counts), f"{fmean(cells.of(arm, 'probe')):.1f}"]
        )  # fmt: skip
        if arm not in (CEILING, FLOOR):
            judged.append([arm, *(_said(found[arm][last]) for found in (kept, fresh))])
    heads = ["arm", "parameters", "CPU ms a document", "right after the cut", "comp.*", *(f"dropped, {c}" for c in counts),
             *(f"fresh head, {c}" for c in counts), "probe"]  # fmt: skip
    one = cells.found[GATES, cells.study.seeds[0]]
    claims = [cells.claim("kept", a, b) for a in cells.study.arms for b in (CEILING, "random") if a not in (b, CEILING)]
    return f"""# MiniLM narrowed to comp.* of 20 Newsgroups

A quarter of the feed-forward neurons stays; {len(cells.study.seeds)} seeds; percent of test documents. Gates: {one["gates"]:,} of them beside the head,
{one["bytes"]:,.0f} bytes up a round and institution, CKKS. Dropped: {", ".join(DROPPED)}.

{unequal_steps(cells)} {relearning_steps(counts)}

{markdown_table(heads, rows)}

{preamble(cells.measured(), "python benchmarks/narrow_newsgroups.py")}

## What is left of the dropped topics

{markdown_table(["arm", f"head as it is, {last} steps", f"fresh head, {last} steps"], judged)}

## Verdicts

{claims_table(claims)}

![what the arms keep, and what comes back](narrow_newsgroups.svg)
"""


def unequal_steps(cells: Cells) -> str:
    """Say which arms took more steps than the others, from what was counted and what the federation agrees on."""
    config = FederationConfig.load(ROOT / "experiments" / "narrow_newsgroups.toml")
    seed, institutions, each = cells.study.seeds[0], config.federation.participants, config.training.steps
    total = cells.found[FLOOR, seed]["steps"]
    after = cells.found[GATES, seed]["steps"]
    before = total - after
    return (
        f"**The arms are not equal in steps.** Magnitude, random, uncut and scratch took {total} on pooled samples, {before} before the cut and "
        f"{after} after it, counted. Gates were trained at {institutions} institutions, each of which took {before} before the cut on its own "
        f"samples, averaged every {each}: {institutions * before} in all; then {after} on pooled samples. The general model took none. Gates may owe "
        "to these steps where they are better than another arm, and where they are as good."
    )


def relearning_steps(counts: Sequence[int]) -> str:
    """Say for how many steps dropped topics were relearnt, and that other studies go further."""
    said = f"Dropped topics were relearnt for {' and '.join(map(str, counts))} steps"
    return (
        f"{said}; not for {LONGEST}, as in the other studies of narrow models." if max(counts) < LONGEST else f"{said}."
    )


def _said(found: Any) -> str:
    i = found.interval
    return found.verdict if i is None else f"{i.mean:.2f} ({i.low:.2f} to {i.high:.2f}): {found.verdict}"


def draw(cells: Cells) -> Figure:
    """The kept skill against what the probe reads of the dropped one."""
    picture, (plot,) = panels("kept and left")
    for number, arm in enumerate(cells.study.arms):
        plot.scatter(
            [fmean(cells.of(arm, "kept"))],
            [fmean(cells.of(arm, "probe"))],
            color=COLOURS[number % len(COLOURS)],
            label=arm,
        )
    plot.set_xlabel("comp.*, % (kept)")
    plot.set_ylabel("linear probe on dropped topics, %")
    plot.legend(frameon=False, fontsize=7)
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    asked = study_parser(__doc__, "one seed, few samples and steps; writes nothing", cells=True).parse_args(arguments)
    os.chdir(ROOT)  # experiments name their data from there
    seeds, recover, counts = ((1,), 3, (2, 4)) if asked.quick else ((1, 2, 3), RECOVER, COUNTS)
    arms = {n: {"way": w, "quick": asked.quick, "recover": recover, "counts": list(counts)} for n, w in WAYS.items()}
    unequal = {CEILING: "it is not narrowed", GATES: "its steps before the cut are those of three institutions"}
    study = Study("narrow_newsgroups", measure, arms, seeds, unequal, kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    missing = [path for path in ("data/newsgroups.parquet", "data/minilm") if not (ROOT / path).exists()]
    if missing:
        print(f"{', '.join(missing)} missing: run python experiments/fetch.py", file=sys.stderr)
        return 1
    ahead(partial(_general, quick=asked.quick), study.wanting, asked.jobs)
    cells = study.run(asked.jobs)
    text = page(cells, counts)
    print(text)
    if not asked.quick:
        figures = {
            "cells": cells.named(),
            "machine": cells.measured(),
        }
        write_results("narrow_newsgroups", json.loads(json.dumps(figures)), text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
