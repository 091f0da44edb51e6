"""Cells: one federation each, with a name, and a result that is kept for as long as its settings are what they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from lib import lora
from lib.federations import W0
from lib.lines import Lines
from lib.machine import ROOT, machine
from lib.paper.methods import Rated
from lib.simulated import UNPADDED

STORE = ROOT / "benchmarks" / "results" / "paper"
"""A line for each finished cell, in a file by the first word of its name; `defaults.jsonl` has the settings' defaults of their time."""
_DEFAULTS = "defaults"
_PARTS = ("settings", "defaults", "start", "tunes", "traced", "in_process", "figures")
_AGAIN = "take it back from git, or remove the cell and measure it again"
LORA_RANK = 8
"""Of LoRA beside cores, whose own rank means other numbers: three times as many values as cores of 64 have in DINOv2-S."""
Flat = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One federation to simulate.

    Attributes:
        name: words and slashes; also the key of its result.
        experiment: file of experiments/, without suffix.
        settings: dotted, over that file, but for the learning rate where it is tuned.
        tuned: workload and method whose tuning gives the rate; None: the rate stands in `settings`, or in the file.
        lora: patterns that stay frozen beside W0, in a federation of LoRA pairs; None: it is not one.
        tunes: it chooses a rate, and nothing that was measured on a test split is kept.
        traced: the size of every round's update is kept too, for figures.
        in_process: `lib.fedavg` runs it: plaintext at many institutions, without a folder for each.
        rated: what a rate R is given to. `tables`: R is that of tables, and the rate of dense parameters keeps its ratio to it in the
            file; `dense`: R is that of everything but the head; `head`: of the head too. Else the head keeps the file's rate.
        decimals: K of AdaptiveBatchHE's encoding, under which `lib.batchhe_run` runs it; 0: another federation.
        needs: a path that must be there.
        drawn: its course is drawn, so that the test split is measured after every round; else after the last one alone, for that takes
            a quarter of the time.
        alone: its seconds are what it is for: nothing else is measured beside it, and it fails where other processes ran.
    """

    name: str
    experiment: str
    settings: Flat
    tuned: tuple[str, str] | None = None
    lora: tuple[str, ...] | None = None
    tunes: bool = False
    traced: bool = False
    in_process: bool = False
    rated: Rated = "tables"
    decimals: int = 0
    needs: str = ""
    drawn: bool = False
    alone: bool = False

    def at(self, rate: float | None) -> dict[str, float]:
        """The settings that a rate stands for; None: no changes."""
        if rate is None:
            return {}
        file = loaded(self.experiment, {}).training
        ratio = file.dense_learning_rate / file.learning_rate if self.rated == "tables" else 0.0
        head = {"training.head_learning_rate": 0.0} if self.rated == "head" else {}
        return {"training.learning_rate": rate, "training.dense_learning_rate": rate * ratio, **head}

    def config(self, **changes: Any) -> FederationConfig:
        """The checked configuration, with further dotted changes."""
        return loaded(self.experiment, {**self.federation(), **changes})

    def federation(self) -> dict[str, Any]:
        """Dotted settings over the file: those of a LoRA federation put pairs into the file's own model and W0.

        Its W0 is that of the federation of `settings`, which runs dictpfl: pretrained, or drawn by the same seed.
        """
        if self.lora is None:
            return dict(self.settings)
        base = loaded(self.experiment, self.settings)
        options = {
            "source": base.model.source,
            "options": base.model.options,
            "weights": W0,
            "rank": base.decomposition.rank if base.decomposition.form == "table" else LORA_RANK,
        }
        return {
            **self.settings, "method": "fedhe-full", "model.source": "lib.lora:model", "model.options": options,
            "model.weights": "", "model.pretrain.epochs": 0, "decomposition.frozen": [*lora.FROZEN, *self.lora],
        }  # fmt: skip


def loaded(experiment: str, settings: Flat) -> FederationConfig:
    """A file of experiments/ with settings over it; threads and device are the same for all."""
    common = {"training.threads": 1, "training.device": "cpu", **UNPADDED}
    return _loaded(experiment, json.dumps({**common, **settings}))


@cache
def _loaded(experiment: str, settings: str) -> FederationConfig:
    return FederationConfig.load(ROOT / "experiments" / f"{experiment}.toml", json.loads(settings))


def flat(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, as JSON values."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = json.loads(json.dumps(value))
    return found


_OF_TABLES = {f"decomposition.{key}" for key in ("form", "basis", "rank", "allocator", "orientation", "scaling")}


def effective(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings of tables where there are none."""
    if settings["decomposition.enabled"]:
        return settings
    return {key: value for key, value in settings.items() if key not in _OF_TABLES}


@cache
def _defaults_now() -> dict[str, Any]:
    return flat(FederationConfig())


@dataclass(frozen=True)
class Store:
    """Results of finished cells, a line each.

    Attributes:
        folder: where they are.
        program: measures a cell again.
    """

    folder: Path = field(default=STORE)
    program: str = "benchmarks/paper.py"

    def lines(self, name: str) -> Lines:
        """The file that has a cell's result: one for each first word of the names."""
        return Lines(self.folder / f"{name.partition('/')[0]}.jsonl")

    def read(self, name: str) -> dict[str, Any] | None:
        """What stands there, whatever settings it was measured with; None: nothing.

        Raises:
            ConfigError: the file is damaged.
        """
        found: dict[str, Any] | None = self.lines(name).get(name)
        if found is not None and not (isinstance(found, dict) and found.keys() >= set(_PARTS)):
            raise ConfigError(
                f"{name} in {self.lines(name).path} is damaged: expected a JSON object with {', '.join(_PARTS)}; {_AGAIN}"
            )
        return found

    def result(self, cell: Cell, rate: float | None = None) -> dict[str, Any] | None:
        """The cell's figures, if they were measured with the settings that it has now."""
        found = self.read(cell.name)
        return found["figures"] if found and self.holds(found, cell, rate) else None

    def holds(self, found: Mapping[str, Any], cell: Cell, rate: float | None = None) -> bool:
        """Whether a stored result was measured with the settings that the cell has now.

        A setting that is new since then must have its default; one whose default has changed counts as changed. Where nothing is
        decomposed, how it would be does not count.
        """
        defaults, begun = self._defaults(found["defaults"]), start(cell)
        if (begun is None) != (found["start"] is None):
            return False
        return (
            _as_now({**defaults, **found["settings"]}, flat(cell.config(**cell.at(rate))))
            and (begun is None or _as_now({**defaults, **found["start"]}, {**_defaults_now(), **begun}))
            and (found["tunes"], found["traced"], found["in_process"]) == (cell.tunes, cell.traced, cell.in_process)
            and found.get("decimals", 0) == cell.decimals
        )

    def write(self, cell: Cell, figures: Mapping[str, Any], rate: float | None, facts: Mapping[str, Any]) -> None:
        """Keep a cell's figures with the settings, the machine, the commit and the date that they come from."""
        now, defaults = flat(cell.config(**cell.at(rate))), _defaults_now()
        settings = {key: value for key, value in now.items() if value != defaults[key]}
        content = {
            "cell": cell.name,
            "command": f"python {self.program} --only {cell.name}",
            "measured": facts,
            "experiment": cell.experiment,
            "settings": settings,
            "settings_digest": hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()[:16],
            "defaults": self._keep_defaults(),
            "start": start(cell),
            "tunes": cell.tunes,
            "traced": cell.traced,
            "in_process": cell.in_process,
            **({"decimals": cell.decimals} if cell.decimals else {}),
            "figures": figures,
        }
        self.lines(cell.name).put(cell.name, content)

    def take(self, name: str, other: Store) -> None:
        """Take over a result of another store, in place of what stands here."""
        found = other.read(name)
        if found is None:
            raise ConfigError(f"{name} is not in {other.folder}; measure it there")
        self.lines(_DEFAULTS).put(found["defaults"], other._defaults(found["defaults"]))
        self.lines(name).put(name, found)

    def _defaults(self, digest: str) -> dict[str, Any]:
        lines = self.lines(_DEFAULTS)
        found: dict[str, Any] | None = lines.get(digest)
        if found is None:
            raise ConfigError(f"{lines.path} lacks {digest}, with which a cell here was measured; {_AGAIN}")
        return found

    def _keep_defaults(self) -> str:
        digest = hashlib.sha256(_text(_defaults_now()).encode()).hexdigest()[:12]
        if self.lines(_DEFAULTS).get(digest) is None:
            self.lines(_DEFAULTS).put(digest, dict(sorted(_defaults_now().items())))
        return digest


def _as_now(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether settings are those of an earlier release, whose names some may lack: these must be at their defaults."""
    then, now = effective(then), effective(now)
    fresh = {key: value for key, value in now.items() if key not in then}
    return all(key in now and now[key] == value for key, value in then.items()) and all(
        value == _defaults_now()[key] for key, value in fresh.items()
    )


def _text(defaults: Flat) -> str:
    return json.dumps(defaults, indent=1, sort_keys=True) + "\n"


def start(cell: Cell) -> dict[str, Any] | None:
    """What differs from the defaults in the federation whose W0 a LoRA federation has."""
    if cell.lora is None:
        return None
    now, defaults = flat(loaded(cell.experiment, cell.settings)), _defaults_now()
    return {key: value for key, value in now.items() if value != defaults[key]}


def facts() -> dict[str, Any]:
    """Machine, commit and date of a measurement, without what every cell would repeat."""
    return machine()
