"""Inversion of FedML-HE's last round by the age of the scores that pick what is encrypted (the paper's table 10).

Scores are made on one model and used on later ones. Runs differ in nothing but how often they are made anew, and all are
attacked in the same update, so that only the mask's age differs. The samples differ too, for a round that scores takes a
number, and each round draws its own: hence several seeds, and every victim counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.inversion_run import SIMILAR
from dictpfl.deploy.attacks.methods import SUBJECTS, Subject
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.registry import Tools, UpdateAttack, attack_of
from dictpfl.deploy.attacks.results import Finding

UPDATES = 40
"""Updates of a run, of one step each; the last one is attacked."""
EVERY = (1, 10, UPDATES)
"""Updates after which scores are made anew: in the last update they are 0, 9 and 39 updates old."""
SHARES = (10, 30)
"""Percent that are encrypted; the paper: 10."""
PRETRAINED = "vit_tiny, pretrained"
STARTS: Mapping[str, Mapping[str, Any]] = {
    "vit_tiny": {},
    PRETRAINED: {
        "data.public_share": 0.2, "model.pretrain.epochs": 30, "model.pretrain.classes": [0, 1, 2, 3, 4],
    },
}  # fmt: skip
"""Weights to begin with, by the words for them; the paper's are pretrained."""
OLD = "scores every"
"""Key of a finding's setting: after how many updates scores are made anew."""


def rescored(experiment: Path, folder: Path, tools: Tools, seeds: Sequence[int] = (1, 2, 3, 4, 5)) -> Iterator[Finding]:
    """Attack plaintext, then each share at each age, all seeds' victims together.

    Args:
        experiment: configuration of the runs.
        folder: place of the runs; exists.
        tools: means of the attacker.
        seeds: of the runs.
    """
    attack = attack_of("closed-form")
    assert isinstance(attack, UpdateAttack)
    for start, settings in STARTS.items():
        subjects = [(SUBJECTS["plaintext"], 0), *((SUBJECTS[f"fedml-he-{s}"], k) for s in SHARES for k in EVERY)]
        for subject, every in subjects:
            changes = {**settings, "federation.rounds": UPDATES, "encryption.rescore_every": every}
            found = []
            for seed in seeds:
                place = folder / "-".join((start.replace(", ", "-"), subject.name, str(every), str(seed)))
                found += _each(attack, replace(subject, last=True), {**changes, "seed": seed}, experiment, place, tools)
            yield _together(found, {**({OLD: every} if every else {}), "seeds": len(seeds)})


def _each(
    attack: UpdateAttack, subject: Subject, changes: Mapping[str, Any], experiment: Path, place: Path, tools: Tools
) -> list[Finding]:
    """Attack every institution of one run by itself."""
    config = subject.config(experiment, changes)
    case = Case.of(play(config, place), subject, config.federation.participants)
    return [finding for victim in case.victims for finding in attack.run(replace(case, victims=[victim]), tools)]


def _together(each: Sequence[Finding], setting: Mapping[str, int]) -> Finding:
    """One finding of what was found on single victims; its model is another one than that of first rounds, with a control of its own."""
    first = each[0]
    said = {k: v for k, v in first.setting.items() if k != "round"}
    values, blind = ([getattr(f, name).value for f in each] for name in ("found", "blind"))
    more = {name: fmean(f.more[name] for f in each) for name in first.more}
    return first.model_copy(
        update={
            "setting": {**said, "model": f"{said['model']}, {UPDATES} updates", **setting},
            "found": mean_interval(values), "blind": mean_interval(blind), "gain": gain_interval(values, blind),
            "trials": len(each), "more": {**more, "recovered": fmean(value >= SIMILAR for value in values)},
            "picture": "",
        }
    )  # fmt: skip
