"""Does each task learn something on real data, encrypted, and are pooled areas what scikit-learn says of pooled predictions?

    python benchmarks/tasks.py                  # some minutes on two idle cores
    python benchmarks/tasks.py --only tumours   # one of them
    python benchmarks/tasks.py --seeds 1        # does it run?

Runs the configurations that stand in docs/how-to/tasks-and-metrics.md, as they stand there, and those of experiments/ that it names
(`python experiments/fetch.py --only tcga,heart` gets their data), over several seeds of data split, W0 and training; complete federations
under CKKS, local engine. Results go to `benchmarks/results/tasks.{json,md}`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import torch
import typer
from rich.console import Console
from sklearn.metrics import roc_auc_score

import dictpfl
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import VALIDATION
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.runs.run import INSTITUTIONS, Run
from lib.machine import machine, preamble, previous
from lib.simulated import UNPADDED
from lib.tasks import CASES, NOTE, Case, table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
PAGE = ROOT / "docs" / "how-to" / "tasks-and-metrics.md"
SEEDS = (1, 2, 3)
CLOSE = 0.005
"""Most that a pooled area may be from scikit-learn's."""
console = Console()


def written(folder: Path) -> None:
    """Write the page's files, configurations and their sources, into a folder."""
    for name, text in re.findall(r"cat > (\S+) <<'END'\n(.*?)\nEND\n", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (folder / name).write_text(text + "\n", encoding="utf-8")


def measured(case: Case, seed: int, folder: Path) -> dict[str, Any]:
    """Run one federation; its figure, baseline, bytes and areas."""
    path = folder / f"{case.name}.toml"
    path = path if path.exists() else ROOT / "experiments" / f"{case.name}.toml"
    run = dictpfl.simulate(
        FederationConfig.load(path, {**UNPADDED, "seed": seed}), folder / "runs" / f"{case.name}-{seed}", engine="local"
    )
    said = run.summary
    return {
        "task": run.config.training.task,
        "metric": said["metric"],
        "seed": seed,
        "encrypted": said["encrypted"],
        "rounds": said["rounds"],
        "reached": said["test"],
        "baseline": said["baseline"],
        "bytes": said["bytes"],
        "seconds": said["seconds"]["total"],
        "figures": said.get("metrics", {}).get("test", {}),
        "area": areas(run),
        "state_digest": said["state_digest"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def areas(run: Run) -> dict[str, float] | None:
    """Area under the ROC curve of all institutions' validation samples: from sums that were opened alone, and scikit-learn's.

    None where the run does not report one, or samples lie in no plain file.
    """
    pooled = run.summary.get("metrics", {}).get("validation", {}).get("auroc", {}).get("auroc")
    homes = sorted((run.folder / INSTITUTIONS).glob("*"))
    if pooled is None or run.config.data.preprocessing.on:
        return None
    parts = [Samples.load(home / VALIDATION) for home in homes]
    features, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "labels"))
    outputs = torch.from_numpy(run.predict(features)).double()
    return {"pooled": pooled, "scikit-learn": _area(outputs, labels)}


def _area(outputs: torch.Tensor, labels: np.ndarray[Any, Any]) -> float:
    if labels.dtype.kind == "f":  # labels that do not exclude each other, of samples or of pixels
        flat = outputs.movedim(1, -1).reshape(-1, outputs.shape[1]).sigmoid().numpy()
        return float(roc_auc_score(np.moveaxis(labels, 1, -1).reshape(-1, flat.shape[1]), flat, average="macro"))
    scores, flat_labels = outputs.reshape(-1, outputs.shape[-1]).softmax(dim=1).numpy(), labels.reshape(-1)
    if scores.shape[1] == 2:
        return float(roc_auc_score(flat_labels, scores[:, 1]))
    return float(roc_auc_score(flat_labels, scores, multi_class="ovr", average="macro"))


def failures(cases: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """What is not as it must be: in the clear, not above the baseline, or another area than scikit-learn's."""
    for name, runs in cases.items():
        for run in runs:
            if not run["encrypted"]:
                yield f"{name}, seed {run['seed']}: not encrypted"
            if not run["baseline"]["passed"]:
                yield f"{name}, seed {run['seed']}: {run['reached']:.4f} is not above the baseline, {run['baseline']['figure']:.4f}"
            if run["area"] and abs(run["area"]["pooled"] - run["area"]["scikit-learn"]) > CLOSE:
                yield f"{name}, seed {run['seed']}: area {run['area']}"


def main(
    only: Annotated[str, typer.Option(help="Names, separated by commas.")] = "",
    seeds: Annotated[int, typer.Option(min=1, max=len(SEEDS))] = len(SEEDS),
) -> None:
    """Measure, and write the results; exit code 1 if something is not as it must be."""
    wanted = [name for name in only.split(",") if name]
    unknown = sorted(set(wanted) - {case.name for case in CASES})
    if unknown:
        raise typer.BadParameter(f"no such configuration: {', '.join(unknown)}")
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    chosen = [case for case in CASES if not wanted or case.name in wanted]
    cases: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="tasks-") as name:
        folder = Path(name)
        written(folder)
        sys.path.append(str(folder))
        for case in chosen:
            cases[case.name] = [measured(case, seed, folder) for seed in SEEDS[:seeds]]
            last = cases[case.name][-1]
            console.print(
                f"{case.name}: {last['metric']} {last['reached']:.4f}, baseline {last['baseline']['figure']:.4f}, area {last['area']}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
            if seeds == len(SEEDS):
                save(cases)
    wrong = list(failures(cases))
    for line in wrong:
        console.print(line, style="red")
    raise typer.Exit(int(bool(wrong)))


def save(measured_now: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write the results; what was not measured now stays as it was, each run with its own date."""
    cases, facts = previous("tasks", "cases") | dict(measured_now), machine()
    RESULTS.joinpath("tasks.json").write_text(
        json.dumps({"machine": facts, "cases": cases}, indent=1) + "\n", encoding="utf-8"
    )
    text = f"# Tasks\n\n{preamble(facts, 'python benchmarks/tasks.py')}\n\n{NOTE}\n\n{table(cases)}\n"
    RESULTS.joinpath("tasks.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
