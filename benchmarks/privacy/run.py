"""Everything that attackers can find, rerun with one command: `python benchmarks/privacy/run.py`.

Each part writes its findings to `benchmarks/results/privacy/PART.json` and its pictures beside it, so that an interruption
loses one part only; `privacy.json`, `privacy.md` and `privacy.svg` are put together from what is there. `--parts` runs some
of them, `--again` runs those that are there already as well; `--list` names them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch

# Started by its path, this script would find the `benchmarks` that Opacus installs.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.machine import RESULTS, machine
from benchmarks.privacy.page import write_page
from common.config import FederationConfig
from common.files import write_private
from deploy.privacy.active import attempts
from deploy.privacy.attack import DEFAULT, Settings, attack
from deploy.privacy.inversion import Effort
from deploy.privacy.parts import LONG_PARTS, PARTS, detections_stage
from deploy.privacy.results import Detection, Finding
from deploy.privacy.subjects import SUBJECTS

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "privacy_digits.toml"
FOLDER = RESULTS / "privacy"


def inversion(
    methods: tuple[str, ...],
    batches: tuple[int, ...],
    changes: Mapping[str, Any],
    tag: str,
    attacks: tuple[str, ...] = ("closed form", "iDLG"),
) -> Iterator[Finding]:
    """Inversion and labels on one model."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(methods=methods, batches=batches, parts=(), attacks=attacks, victims=8)
        results = attack(EXPERIMENT, folder, settings, overrides=changes)
        for finding in results.findings:
            picture = f"{tag}-{finding.picture}" if finding.picture and _is_best(finding, results.findings) else ""
            if picture:
                (FOLDER / picture).write_bytes((Path(folder) / "pictures" / finding.picture).read_bytes())
            yield finding.model_copy(update={"picture": picture})


def _is_best(finding: Finding, among: list[Finding]) -> bool:
    """Whether no attack got nearer to the images of this method at this batch: only that picture is kept."""
    rivals = [f for f in among if (f.family, f.method, f.setting) == (finding.family, finding.method, finding.setting)]
    return finding is max(rivals, key=lambda f: f.found.value)


MODELS: Mapping[str, Callable[[], Iterator[Finding]]] = {
    "inversion-vit-closed": lambda: inversion(DEFAULT, (1,), {}, "closed", ("closed form",)),
    "inversion-vit": lambda: inversion(DEFAULT, (1,), {}, "vit", ("iDLG",)),
    "inversion-vit-searched": lambda: inversion(
        ("plaintext", "fedml-he-70", "fedhe-full", "dictpfl"), (1,), {}, "searched", ("cosine", "DLG")
    ),
    "inversion-vit-others": lambda: inversion(tuple(name for name in SUBJECTS if name not in DEFAULT), (1,), {}, "others"),
    "inversion-vit-batches": lambda: inversion(
        ("plaintext", "fedml-he-90", "dictpfl-unpruned", "dictpfl-collusion"), (2, 4), {}, "vit"
    ),
    "inversion-cnn": lambda: inversion(
        ("plaintext", "fedml-he-30", "fedml-he-90", "fedhe-full", "dictpfl-identity"), (1,),
        {"model.source": "cnn", "model.options": {"width": 8, "depth": 2}, "decomposition.rank": 2}, "cnn",
    ),
    "inversion-vit-pretrained": lambda: inversion(
        ("plaintext", "fedml-he-30", "fedml-he-90", "fedhe-full", "dictpfl", "dictpfl-identity"), (1,),
        {"data.public_share": 0.2, "model.pretrain.epochs": 30, "model.pretrain.classes": [0, 1, 2, 3, 4]}, "pretrained",
    ),
    "inversion-steps": lambda: inversion(
        ("plaintext", "dictpfl-collusion"), (1,), {"training.steps": 2}, "steps"
    ),
}  # fmt: skip
"""Parts that invert gradients, by model and batch."""


def names() -> list[str]:
    """All parts, in the order in which they run."""
    return [*MODELS, *(name for name in PARTS if name != "sums"), *LONG_PARTS, "active"]


def findings_of(name: str) -> list[dict[str, Any]]:
    """Run a part; its findings, or detections, as JSON values."""
    config = FederationConfig.load(EXPERIMENT)
    with tempfile.TemporaryDirectory() as folder:
        found: list[Finding] | list[Detection]
        if name == "active":
            found = attempts(detections_stage(config, Path(folder)))
        elif name in MODELS:
            found = list(MODELS[name]())
        else:
            found = list((PARTS | LONG_PARTS)[name](config, Path(folder), Effort(), FOLDER))
    return [one.model_dump(mode="json") for one in found]


def main() -> int:
    """Run what is wanted and missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(names()), help="separated by commas")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(names()))
        return 0
    wanted = asked.parts.split(",")
    if unknown := set(wanted) - set(names()):
        sys.exit(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(names())}")
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        path = FOLDER / f"{name}.json"
        if path.exists() and not asked.again:
            print(f"{name}: there already")
            continue
        began, worked = time.monotonic(), time.process_time()
        found = findings_of(name)
        facts = {
            "part": name, "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - worked,
            "machine": machine(), "findings": found,
        }  # fmt: skip
        write_private(path, (json.dumps(facts, indent=1) + "\n").encode())
        path.chmod(0o644)
        write_page(FOLDER, names())
        print(f"{name}: {len(found)} findings, {facts['seconds']:.0f} s, {facts['cpu_seconds']:.0f} s of processor")
    write_page(FOLDER, names())
    return 0


if __name__ == "__main__":
    sys.exit(main())
