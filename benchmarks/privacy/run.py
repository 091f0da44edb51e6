"""Everything that attackers can find, and that checks of ciphertexts say, rerun with one command: `python benchmarks/privacy/run.py`.

Each part writes its findings to a line of `benchmarks/results/privacy.jsonl`, and its pictures to `benchmarks/results/privacy`, so that an
interruption loses one part only; `privacy.json`, `privacy.md` and `privacy.svg` are put together from what is there. `--parts` runs some
of them, `--again` runs those that are there already as well; `--list` names them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lib` is; Python looks beside a script only

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.active import attempts
from dictpfl.deploy.attacks.attack import DEFAULT, Settings, attack, detections_run
from dictpfl.deploy.attacks.ciphertexts import checked, lengthened
from dictpfl.deploy.attacks.defaults import DEFAULT_PARTS
from dictpfl.deploy.attacks.inversion import Effort
from dictpfl.deploy.attacks.methods import SUBJECTS
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.registry import FederationAttack, Tools, attack_of
from dictpfl.deploy.attacks.results import CiphertextCheck, Detection, Finding
from lib.lines import Lines
from lib.machine import RESULTS, machine
from lib.privacy_page import write_page
from lib.rescored import rescored

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "privacy_digits.toml"
FOLDER = RESULTS / "privacy"
"""Of pictures."""
PARTS = Lines(RESULTS / "privacy.jsonl")
RESCORED = "inversion-vit-rescored"
"""Part that inverts gradients by the age of the scores that pick what is encrypted."""
READABLE = tuple(name for name in DEFAULT if not SUBJECTS[name].encrypted)
AUDITED: Mapping[str, Mapping[str, Any]] = {
    **{subject.label: subject.settings for subject in SUBJECTS.values() if subject.encrypted},
    "dictpfl, masks": {"defences.masks": True},
    "dictpfl, 3 institutions": {"federation.participants": 3},
    "dictpfl, DP of institutions": {
        "privacy.mechanism": "institution", "privacy.noise_multiplier": 1.0, "privacy.max_update_norm": 0.1,
        "pruning.enabled": False,
    },
}  # fmt: skip
"""Settings of the runs whose ciphertexts are checked."""


def inversion(
    methods: tuple[str, ...],
    batches: tuple[int, ...],
    changes: Mapping[str, Any],
    tag: str,
    attacks: tuple[str, ...] = ("closed-form", "idlg"),
) -> Iterator[Finding]:
    """Inversion and labels on one model."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(methods=methods, batches=batches, parts=(), attacks=("labels", *attacks), victims=8)
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
    "inversion-vit-closed": lambda: inversion(READABLE, (1,), {}, "closed", ("closed-form",)),
    "inversion-vit": lambda: inversion(READABLE, (1,), {}, "vit", ("idlg",)),
    "inversion-vit-searched": lambda: inversion(
        ("plaintext", "fedml-he-70", "dictpfl-identity"), (1,), {}, "searched", ("cosine", "dlg")
    ),
    "inversion-vit-others": lambda: inversion(tuple(n for n, s in SUBJECTS.items() if n not in DEFAULT and not s.encrypted), (1,), {}, "others"),
    "inversion-vit-batches": lambda: inversion(
        ("plaintext", "fedml-he-90", "dictpfl-collusion"), (2, 4), {}, "vit", ("cosine",)
    ),
    "inversion-cnn": lambda: inversion(
        ("plaintext", "fedml-he-30", "fedml-he-90", "dictpfl-identity"), (1,),
        {"model.source": "cnn", "model.options": {"width": 8, "depth": 2}, "decomposition.rank": 2}, "cnn",
    ),
    "inversion-vit-pretrained": lambda: inversion(
        ("plaintext", "fedml-he-30", "fedml-he-90", "dictpfl-identity"), (1,),
        {"data.public_share": 0.2, "model.pretrain.epochs": 30, "model.pretrain.classes": [0, 1, 2, 3, 4]}, "pretrained",
    ),
    "inversion-steps": lambda: inversion(
        ("plaintext", "dictpfl-collusion"), (1,), {"training.steps": 2}, "steps"
    ),
}  # fmt: skip
"""Parts that invert gradients, by model and batch."""


def names() -> list[str]:
    """All parts, in the order in which they run."""
    return [
        *MODELS,
        RESCORED,
        *(name for name in DEFAULT_PARTS if name != "sums"),
        "all-sums",
        "worlds",
        "times",
        "active",
        "ciphertexts",
    ]


def audited(label: str, folder: Path) -> list[CiphertextCheck]:
    """Play a federation of several rounds, and check its ciphertexts."""
    config = FederationConfig.load(EXPERIMENT, dict(AUDITED[label]))
    return checked(play(lengthened(config), folder / label).folder, label)


def findings_of(name: str) -> list[dict[str, Any]]:
    """Run a part; its findings, detections or checks, as JSON values."""
    config = FederationConfig.load(EXPERIMENT)
    with tempfile.TemporaryDirectory() as folder:
        found: list[Finding] | list[Detection] | list[CiphertextCheck]
        if name == "ciphertexts":
            found = [check for label in AUDITED for check in audited(label, Path(folder))]
        elif name == "active":
            found = attempts(detections_run(config, Path(folder)))
        elif name in MODELS:
            found = list(MODELS[name]())
        elif name == RESCORED:
            found = list(rescored(EXPERIMENT, Path(folder), Tools(Effort(), Path(folder))))
        else:
            attack_on = attack_of(name)
            assert isinstance(attack_on, FederationAttack)
            found = list(attack_on.run(config, Path(folder), Tools(Effort(), FOLDER)))
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
        if PARTS.get(name) is not None and not asked.again:
            print(f"{name}: there already")
            continue
        began, worked = time.monotonic(), time.process_time()
        found = findings_of(name)
        facts = {
            "part": name, "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - worked,
            "machine": machine(), "findings": found,
        }  # fmt: skip
        PARTS.put(name, facts)
        write_page(PARTS, names())
        print(f"{name}: {len(found)} findings, {facts['seconds']:.0f} s, {facts['cpu_seconds']:.0f} s of processor")
    write_page(PARTS, names())
    return 0


if __name__ == "__main__":
    sys.exit(main())
