"""Comparison of several methods, and of what needs no federation, on the same data, seeds and rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dictpfl.client.training.task import task_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.config.sections import LARGEST_SEED
from dictpfl.common.errors import ConfigError
from dictpfl.common.presets import METHODS
from dictpfl.deploy.reports.notebook import in_notebook, progress_of
from dictpfl.deploy.reports.report import write_comparison
from dictpfl.deploy.runs.compared import ALONE, BASELINES, LEVEL, MAJORITY, POOLED, Comparison, Row
from dictpfl.deploy.runs.formats import FORMAT
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import CONFIG, SUMMARY, Run, closed_rounds, write_json
from dictpfl.deploy.simulation.baseline import require_labels
from dictpfl.deploy.simulation.devices import devices
from dictpfl.deploy.simulation.founding import found_again, require_regrouped
from dictpfl.deploy.simulation.partition import Regrouping
from dictpfl.deploy.simulation.simulate import Engine, simulate, simulate_regrouped


def configurations(
    path: Path | str, methods: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> dict[str, FederationConfig]:
    """Return a checked configuration for each method and baseline, all of them before the first one runs.

    A method that encrypts nothing, or a part, admits `toy_insecure` here: it is compared, not deployed.

    Raises:
        ConfigError: an unknown method, one twice, or none.
    """
    known = ", ".join((*METHODS, *BASELINES))
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError(f"methods {list(methods)}: expected at least one, and each once; known: {known}")
    if unknown := [method for method in methods if method not in {*METHODS, *BASELINES}]:
        raise ConfigError(f"unknown method {unknown[0]!r}; known: {known}")
    made = {}
    for method in methods:
        changed = {**(overrides or {}), "method": "plaintext" if method in BASELINES else method}
        if method in BASELINES:
            changed["privacy.mechanism"] = "none"  # one party has nobody to be private before; see `_of_one`
        if changed["method"] in ("plaintext", "fedml-he"):
            changed["toy_insecure"] = True
        made[method] = FederationConfig.load(path, changed)
    return made


_NO_ANSWER = f"{MAJORITY}: this task knows no answer without looking at a sample; leave it out of the methods"
OnRound = Callable[[RoundRecord], None]
Watch = Callable[[str, FederationConfig], AbstractContextManager[OnRound]]
"""Makes what is called with each closed round, from what is run, such as "dictpfl, seed 2", and its configuration."""


def compare(
    configs: Mapping[str, FederationConfig],
    out: Path | str,
    *,
    engine: Engine = "flower",
    seeds: Sequence[int] = (),
    resume: bool = False,
    watch: Watch | None = None,
    on_devices: Callable[[str], None] | None = None,
) -> Comparison:
    """Run every configuration into a folder of its own, then write compare.json and compare.html.

    Args:
        configs: by method or baseline, as `configurations` makes them; a baseline's is that of the federation that it stands beside.
        out: folder; each method has one in it, each seed of several one in that.
        engine: runtime of the federations; baselines run in this process.
        seeds: each of them is run, of data split, W0 and training; none: that of each configuration.
        resume: runs in `out` that are finished are taken as they are, one that was stopped goes on.
        watch: makes the listener of each run; None: its progress is shown in a notebook, and nowhere else.
        on_devices: see `simulate`; called for each federation.

    Raises:
        ConfigError: a seed twice, nothing that trains, or a folder that holds something else.
        EngineError: see `simulate`; `resume` goes on.
    """
    folder, watched = Path(out).resolve(), watch or (_in_notebook if in_notebook() else _unwatched)
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds {list(seeds)}: expected each once")
    if any(not 0 <= seed <= LARGEST_SEED for seed in seeds):
        raise ConfigError(f"seeds {list(seeds)}: expected whole numbers from 0 to {LARGEST_SEED}")
    if not configs or (MAJORITY in configs and configs.keys() <= {MAJORITY, ALONE}):
        raise ConfigError(
            f"methods {', '.join(configs) or 'none'}: {MAJORITY} trains nothing and is read from a run that has all labels; name a method or "
            f"{POOLED} beside it"
        )
    if MAJORITY in configs and not hasattr(task_of(configs[MAJORITY].measuring), "guess"):
        raise ConfigError(_NO_ANSWER)
    for method in configs.keys() & {POOLED, ALONE}:
        _of_one(configs[method])  # what a baseline cannot have is refused before hours of federations
    found: dict[str, dict[int, list[Run]]] = {method: {} for method in configs}
    for method, config in configs.items():
        for seed in () if method == MAJORITY else seeds or (config.seed,):
            place = _place(folder / method, seed, several=len(seeds) > 1, resume=resume)
            seeded = config.model_copy(update={"seed": seed})
            named = f"{method}, seed {seed}" if len(seeds) > 1 else method
            runs = _runs(
                method, seeded, place, named, engine, watched, on_devices, resume=resume, answers=MAJORITY in configs
            )
            found[method][seed] = [*runs]
    metric = next(run for each in found.values() for runs in each.values() for run in runs).summary["metric"]
    parties = next(iter(configs.values())).federation.participants
    made = Comparison(folder, metric, parties, tuple(_row(method, found) for method in configs))
    write_json(
        folder / "compare.json",
        {"format": FORMAT, "metric": metric, "level": LEVEL, "methods": [row.to_json(folder) for row in made.rows]},
    )
    write_comparison(made, folder / "compare.html")
    return made


def _place(folder: Path, seed: int, *, several: bool, resume: bool) -> Path:
    """A seed's folder in its method's: the method's own if it is the only one; resumed, where it lies, whatever the number of seeds was then."""
    alone, among = folder, folder / f"seed-{seed}"
    place, other = (among, alone) if several else (alone, among)
    return other if resume and _begun(other, seed) and not _begun(place, seed) else place


def _begun(place: Path, seed: int) -> bool:
    """Tell whether a run of a seed was founded there, or a baseline of institutions on their own."""
    homes = (place, place / "institution-000")
    return any((home / CONFIG).exists() and closed_rounds(home)[0].seed == seed for home in homes)


def _row(method: str, found: Mapping[str, Mapping[int, Sequence[Run]]]) -> Row:
    if method == MAJORITY:
        beside = next(runs for other, runs in found.items() if other not in (MAJORITY, ALONE))
        answers = {seed: runs[0].summary["baseline"] for seed, runs in beside.items()}
        if None in answers.values():
            raise ConfigError(_NO_ANSWER)
        return Row(method, tuple(answers), tuple(answer["figure"] for answer in answers.values()), ())
    by_seed = found[method]
    figures = tuple(statistics.fmean(run.test for run in runs) for runs in by_seed.values())
    return Row(method, tuple(by_seed), figures, tuple(run for runs in by_seed.values() for run in runs))


def _runs(
    method: str,
    config: FederationConfig,
    place: Path,
    named: str,
    engine: Engine,
    watch: Watch,
    on_devices: Callable[[str], None] | None,
    *,
    resume: bool,
    answers: bool,
) -> Iterator[Run]:
    """Run a method once, or a baseline once for each institution that it needs."""
    if method not in BASELINES:
        run = partial(simulate, engine=engine, on_devices=on_devices, progress=False)  # `watch` shows it
        yield _run(config, place, named, engine, run, watch, resume=resume, answers=answers)
        return
    parties, lone = config.federation.participants, _of_one(config)
    for only in range(parties) if method == ALONE else (None,):
        at, who = (
            (place, named)
            if only is None
            else (place / f"institution-{only:03d}", f"{named}, institution {only + 1} of {parties}")
        )
        regrouping = Regrouping(parties, only)
        if resume:
            require_regrouped(at, regrouping)
        run = partial(simulate_regrouped, regrouping=regrouping)
        yield _run(lone, at, who, "local", run, watch, resume=resume, answers=answers)


def _run(
    config: FederationConfig,
    place: Path,
    named: str,
    engine: Engine,
    run: Callable[..., Run],
    watch: Watch,
    *,
    resume: bool,
    answers: bool,
) -> Run:
    if resume and (place / SUMMARY).exists():
        found_again(devices(config, engine=engine).config, place)  # refuses a run of another configuration
        found = Run.load(place)
        if found.config.federation.rounds == config.federation.rounds:
            return found
    with watch(named, config) as on_round:
        return run(config, place, resume=resume, on_round=on_round, on_founded=require_labels if answers else None)


def _of_one(config: FederationConfig) -> FederationConfig:
    """The configuration of a baseline: one party that trains all parameters in clear, as long as the federation does."""
    if config.data.preprocessing.on:
        raise ConfigError(
            f"{POOLED} and {ALONE} are baselines of one party, and data.preprocessing prepares columns by sums of three institutions or more: leave "
            "these two out of the methods, or compare them on columns that are prepared (data.options.scale)"
        )
    alone = {"participants": 1, "min_participants": 1, "max_participants": 0, "sample": 0}
    changed = {f"federation.{key}": value for key, value in alone.items()} | {
        "method": "plaintext",
        "privacy.mechanism": "none",
        # What a party counts for others has no others here, and is refused of fewer than three.
        "tallies": {},
        "training.metrics": [],
        "training.metric_options": {},
        # One party's update is taken as it is, and pulled towards nobody.
        "aggregation.rule": "average",
        "aggregation.rate": 1.0,
        "training.proximal": 0.0,
        "toy_insecure": True,
    }
    return FederationConfig.of(config.model_dump(mode="json"), changed, origin="baseline")


def _in_notebook(named: str, config: FederationConfig) -> AbstractContextManager[OnRound]:
    return progress_of(config, named)


@contextmanager
def _unwatched(_named: str, _config: FederationConfig) -> Iterator[OnRound]:
    yield lambda _: None
