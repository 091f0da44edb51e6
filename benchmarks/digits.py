"""Digits of SmolLM2: which it prefers, which neurons prefer which, and what silencing them does: `python benchmarks/digits.py`.

    python benchmarks/digits.py              # 300 questions of each of seven kinds, 20 draws; under an hour of one core; resumes
    python benchmarks/digits.py --list       # its cells, there or missing
    python benchmarks/digits.py --quick      # two kinds, few questions, neurons of three layers, for a look; writes nothing
    python benchmarks/digits.py --jobs 2     # processes at a time
    python benchmarks/digits.py --tuned      # before and after a federation tunes it on GSM8K, 6 cells, 40 minutes of one core; with --list, --quick, --jobs
    python benchmarks/digits.py --controlled # small models on controlled corpora instead, 15 cells of a few minutes each; with --list, --quick, --jobs

Cells: `dictpfl audit numbers` as typed, in float32; questions read with 0, 2 and 5 examples; selectivity of all neurons; and for each kind and
each share of neurons (0.01, 0.1 and 1 %) what becomes of digits without them, on the second half of the questions, signs of activations
being those of the first. All but the first in bfloat16. Sentences are chosen by the figures. A null exits 0; 1 means that a
number is missing or the command failed. Data: `python experiments/fetch.py --only smollm2` and `--only gsm8k`.
Results: `benchmarks/results/digits.{json,md,svg}`, `digits_tuned.{json,md,svg}`, and `digits_controlled.{json,md,svg}`, which need no data.
"""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from dictpfl.client.data.digits import histogram, numbers_in
from dictpfl.deploy.numbers.model import Asked, audit
from dictpfl.deploy.numbers.reading import Reader, Silenced
from dictpfl.deploy.numbers.selectivity import (
    by_layer,
    drawn,
    effective,
    largest,
    most_selective,
    ranks,
    selectivity,
)
from dictpfl.deploy.numbers.sources import reader_of
from dictpfl.deploy.numbers.tasks import TASKS, Question, questions
from lib import digits_controlled, digits_controlled_page, digits_tuned, digits_tuned_page
from lib.arms import Study, study_parser
from lib.digits_figures import DIGIT, MAIN, NONE, NORM, SHARES, SHOTS, TOLD, random_name, silenced_name, stored
from lib.digits_page import Found, document, draw, page
from lib.machine import ROOT, write_results

SOURCE, CORPUS = ROOT / "data" / "smollm2", ROOT / "data" / "gsm8k.parquet"
SEED = 1
FULL: Mapping[str, Any] = {"kinds": list(TASKS), "samples": 300, "draws": 20, "layers": 0}
QUICK: Mapping[str, Any] = {"kinds": ["sums", "roots"], "samples": 8, "draws": 2, "layers": 3}
_TOP = 1000  # neurons of which the paper compares mean selectivity


@cache
def _reader(layers: int, kind: torch.dtype) -> Reader:
    """Load the model; with neurons of its first layers alone, unless 0."""
    torch.set_num_threads(1)
    read = reader_of(str(SOURCE), "cpu")
    found = Reader(read.model.to(kind), read.tokenizer)
    if layers:
        found.layers = found.layers[:layers]
    return found


def _asked(arm: Mapping[str, Any], seed: int) -> tuple[Sequence[Question], Sequence[Question]]:
    """Draw examples, and questions that are the same for every number of examples."""
    made = questions(arm["kind"], arm["samples"] + max(SHOTS), seed)
    return made[: arm["shots"]], made[max(SHOTS) :]


def measure_command(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Run the command as typed, and keep what it wrote; in a look the audit alone."""
    if arm["layers"]:
        asked = Asked(tuple(arm["kinds"]), samples=arm["samples"], seed=seed)
        return {"steps": 0, "samples": 0, "seconds": 0.0, "child": 0.0, "page": True,
                "outcome": audit(_reader(arm["layers"], torch.float32), asked)}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="digits-") as name:
        words = ["audit", "numbers", str(SOURCE), "--samples", str(arm["samples"]), "--seed", str(seed), "-o", "page"]
        before, began = _children(), time.monotonic()
        subprocess.run([str(Path(sys.executable).parent / "dictpfl"), *words], cwd=name, check=True)
        seconds, child = time.monotonic() - began, _children() - before
        written = Path(name) / "page"
        outcomes = json.loads((written / "numbers.json").read_bytes())["models"]
        return {"steps": 0, "samples": 0, "seconds": seconds, "child": child,
                "page": (written / "numbers.html").exists(), "outcome": next(iter(outcomes.values()))}  # fmt: skip


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_reading(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Read questions of a kind; with the usual number of examples, keep what neurons do over the first half."""
    reader, (examples, own) = _reader(arm["layers"], torch.bfloat16), _asked(arm, seed)
    half, told = len(own) // 2, arm["shots"] == TOLD
    first = reader.read(own[:half], examples, activations=told)
    found = {"steps": 0, "samples": len(own), "halves": [stored(first), stored(reader.read(own[half:], examples))]}
    if told:
        found["activations"] = base64.b64encode(first.activations.astype("<f4").tobytes()).decode()
    return found


def measure_profile(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Rank digits for every neuron, and choose the sets to silence."""
    reader, read = _reader(arm["layers"], torch.bfloat16), readings(arm)
    shape = (len(reader.downs), reader.downs[0].in_features)
    cells = [read.found[_reading_name(kind, TOLD), seed] for kind in arm["kinds"]]
    means = np.average(
        [np.frombuffer(base64.b64decode(one["activations"]), dtype="<f4").reshape(shape) for one in cells],
        axis=0, weights=[len(one["halves"][0]["truth"]) for one in cells],
    )  # fmt: skip
    found, vocabulary = ranks(reader), reader.model.get_output_embeddings().weight.shape[0]
    forms = {
        "+w": selectivity(found),
        "-w": selectivity(vocabulary + 1 - found),
        "by sign": selectivity(effective(found, means, vocabulary)),
    }
    total = shape[0] * shape[1]
    counts = {f"{share:g}": max(1, round(share * total)) for share in SHARES}
    sets = {
        share: {silenced_name(d): _flat(most_selective(forms["by sign"], d, count), shape[1]) for d in range(10)}
        | {NORM: _flat(largest(reader, count), shape[1])}
        for share, count in counts.items()
    }
    told = _corpus()
    return {
        "steps": 0, "samples": 0, "of": total, "layers": shape[0], "width": shape[1], "sets": sets,
        "profile": {name: scores.mean(axis=(0, 2)).tolist() for name, scores in forms.items()},
        "top": [float(np.sort(forms["+w"][:, d].ravel())[::-1][:_TOP].mean()) for d in range(10)],
        "corpus": {"first": histogram(numbers_in(told), every=True).part("first").tolist(),
                   "all": [told.count(str(d)) for d in range(10)]},
    }  # fmt: skip


def _flat(chosen: Silenced, width: int) -> list[int]:
    return [layer * width + int(n) for layer, neurons in chosen.items() for n in neurons]


def _corpus() -> str:
    import pandas as pd

    frame = pd.read_parquet(CORPUS)
    return "\n".join((frame.question + "\n" + frame.answer)[frame.split == "train"])


def measure_effects(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Read the second half of a kind's questions without each set of neurons, and without as many random ones of the same layers."""
    chosen = profile(arm).found["profile", seed]
    width, share = chosen["width"], arm["share"]
    variants: dict[str, Silenced] = {NONE: {}}
    variants |= {name: by_layer(flat, width) for name, flat in chosen["sets"][share].items()}
    for d in range(10) if share == MAIN else (DIGIT,):
        like = variants[silenced_name(d)]
        variants |= {random_name(number, d): drawn(like, width, seed, d, number) for number in range(arm["draws"])}
    examples, own = _asked(arm, seed)
    places = _reader(arm["layers"], torch.bfloat16).read(own[len(own) // 2 :], examples, variants)
    return {"steps": 0, "samples": len(own) - len(own) // 2, "places": stored(places)}


def _reading_name(kind: str, shots: int) -> str:
    return f"{kind}, {shots} examples"


def _extent(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arm[name] for name in FULL}


def command(extent: Mapping[str, Any]) -> Study:
    """The command of clause 1, one cell."""
    return Study("digits-command", measure_command, {"command": _extent(extent)}, (SEED,))


def reading(extent: Mapping[str, Any]) -> Study:
    """What is written, by kind and by number of examples."""
    common = _extent(extent)
    arms = {
        _reading_name(kind, shots): common | {"kind": kind, "shots": shots}
        for shots in SHOTS
        for kind in extent["kinds"]
    }
    return Study("digits-reading", measure_reading, arms, (SEED,))


def readings(extent: Mapping[str, Any]) -> Any:
    """Cells of `reading`, all of them there."""
    return _there(reading(extent))


def _profile(extent: Mapping[str, Any]) -> Study:
    return Study("digits-profile", measure_profile, {"profile": _extent(extent)}, (SEED,))


def profile(extent: Mapping[str, Any]) -> Any:
    """Read the cell of selectivity, which is there."""
    return _there(_profile(extent))


def _there(study: Study) -> Any:
    assert study.is_measured, f"{study.name} comes first; missing: {study.missing}"
    return study.run()


def effects(extent: Mapping[str, Any]) -> Study:
    """What silencing does, by share of neurons and kind."""
    common = _extent(extent)
    arms = {
        f"{kind}, {share}": common | {"kind": kind, "shots": TOLD, "share": share}
        for share in (f"{s:g}" for s in SHARES)
        for kind in extent["kinds"]
    }
    return Study("digits-effects", measure_effects, arms, (SEED,))


def controlled(asked: Namespace) -> int:
    """Train small models on corpora whose digits are known."""
    extent = digits_controlled.QUICK if asked.quick else digits_controlled.FULL
    study = digits_controlled.study(extent, range(2 if asked.quick else 5))
    return _on_its_own(asked, study, digits_controlled_page, "digits_controlled")


def tuned(asked: Namespace) -> int:
    """Read a model before and after a federation tunes it."""
    extent = digits_tuned.QUICK if asked.quick else digits_tuned.FULL
    study = digits_tuned.study(extent, range(2) if asked.quick else digits_tuned.SEEDS)
    return _on_its_own(asked, study, digits_tuned_page, digits_tuned.NAME)


def _on_its_own(asked: Namespace, study: Study, its: ModuleType, name: str) -> int:
    """Measure what has no cell yet, compare, print, and write a study's own page unless it was a look."""
    if asked.list:
        _list([study])
        return 0
    cells = study.run(asked.jobs)
    text = its.page(cells, cells.measured())
    print(text)
    if not asked.quick:
        write_results(name, its.document(cells), text, its.draw(cells))
    return 0


def _list(studies: Sequence[Study]) -> None:
    for study in studies:
        for cell in study.cells:
            print(study.name, *cell, "missing" if cell in study.missing else "there", sep="\t")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print, and write unless it was a look."""
    parser = study_parser(__doc__, "two kinds, 8 questions, 2 draws, neurons of three layers; writes nothing")
    parser.add_argument("--list", action="store_true", help="say which cells are there")
    parser.add_argument(
        "--controlled", action="store_true", help="does the preference follow the corpus? Small models, trained here"
    )
    parser.add_argument(
        "--tuned", action="store_true", help="does federated tuning move what is written? SmolLM2 on GSM8K"
    )
    asked = parser.parse_args(arguments)
    if asked.controlled and asked.tuned:
        parser.error("--controlled and --tuned are studies of their own: name one of them")
    if asked.tuned:
        return tuned(asked)
    if asked.controlled:
        return controlled(asked)
    extent = QUICK if asked.quick else FULL
    studies = [command(extent), reading(extent), _profile(extent), effects(extent)]
    if asked.list:
        _list(studies)
        return 0
    # The command has both cores for itself: its time is asked for.
    cells = [study.run(1 if study is studies[0] else asked.jobs) for study in studies]
    found = Found.of(*(one.found for one in cells), seed=SEED)
    text = page(found, cells[-1].measured())
    print(text)
    if not asked.quick:
        write_results("digits", document(found) | {"machine": cells[-1].measured()}, text, draw(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
