"""Fields of summary.json that pages and tables read, checked when a run is read back.

A file that was damaged or edited is told by the field that is wrong, before any page reads it. Fields that no page reads may be
anything, and those that earlier releases did not write may be missing. null stands for a figure that is no
finite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class _Fields(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class _Values(_Fields):
    model: int
    shared: int
    sent: int


class _Reduction(_Fields):
    values: float
    decomposition: float
    pruning: float
    scores: float = 1.0
    bytes: float = 0.0
    besides: int = 0


class _Bytes(_Fields):
    up: int
    down: int


class _Seconds(_Fields):
    total: float
    train: float
    seal: float
    fold: float
    open: float
    evaluate: float
    store: float


class _Group(_Fields):
    samples: int
    figure: float | None


class _Best(_Fields):
    figure: float
    updates: int
    test: float | None


class _Baseline(_Fields):
    what: str
    figure: float | None
    passed: bool


class _Trained(_Fields):
    values: dict[str, int]
    head: str


class _Block(_Fields):
    entries: int
    kept: int
    rows: list[float]


class _Masks(_Fields):
    kept: int
    entries: int
    masks_sha256: str
    blocks: dict[str, _Block]


class _Account(_Fields):
    mechanism: str
    epsilon: float | None
    delta: float
    limit: float | None


class _Device(_Fields):
    institutions: int
    rounds: int


class _Refused(_Fields):
    round: int
    institutions: list[str]
    reason: str


class _Troubles(_Fields):
    void: list[int]
    refused: list[_Refused]
    locked: list[str]


class _Tally(_Fields):
    name: str
    when: str
    fraction: int
    entries: int
    participants: int
    samples: int
    sums: dict[str, list[int]] = {}


_Figures = dict[str, dict[str, Any]]
"""Figures by metric and name: numbers, lists by class, tables of counts, or what a metric of your own makes."""


class _Metrics(_Fields):
    test: _Figures
    validation: _Figures


class _Machine(_Fields):
    processor: str
    platform: str
    python: str


class _Encryption(_Fields):
    ring_degree: int
    primes: list[int]
    scale_bits: int
    payload_bits: int
    word_bits: int | None = None
    capacity: int
    profile: str
    security: int


class _Summary(_Fields):
    name: str
    dataset: str
    model: str
    seed: int
    engine: str
    federation: str
    fingerprint: str
    encryption: _Encryption
    metric: str
    test: float | None
    rounds: int
    method: str
    encrypted: bool
    insecure: list[str]
    participants: int
    state_digest: str
    model_sha256: str
    versions: dict[str, str]
    machine: _Machine
    values: _Values
    reduction: _Reduction
    bytes: _Bytes
    seconds: _Seconds
    sample: int = 0
    stopped: bool
    validation: float | None
    test_by_group: dict[str, _Group] = {}
    test_mean_of_groups: float | None = None
    best: _Best | None = None
    baseline: _Baseline | None = None
    trained: _Trained | None = None
    sparsity: _Masks | None = None
    privacy: _Account | None = None
    devices: dict[str, _Device] = {}
    metrics: _Metrics = _Metrics(test={}, validation={})
    troubles: _Troubles | None = None
    tallies: list[_Tally] = []

    @model_validator(mode="after")
    def _mean_of_groups(self) -> Self:
        if self.test_by_group and "test_mean_of_groups" not in self.model_fields_set:
            raise ValueError("test_by_group is there, and test_mean_of_groups is not")
        return self


def require_summary(summary: Mapping[str, Any]) -> None:
    """Refuse a summary whose fields are missing or of another type.

    Args:
        summary: content of summary.json with the names of today's format.

    Raises:
        ValidationError: it names them.
    """
    _Summary.model_validate(summary)
