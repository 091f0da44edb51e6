"""Simulated federations: found, run on an engine, watch, and leave a run folder behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dictpfl.client.institution import forget_institutions
from dictpfl.client.memory.record import Memory
from dictpfl.client.model.sparse.weights import block_of
from dictpfl.client.privacy.guard import spent
from dictpfl.client.training.task import task_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, EngineError
from dictpfl.common.files import lock_if_free, owner_only, write_private
from dictpfl.common.law.stored import to_bytes
from dictpfl.deploy.reports.notebook import in_notebook, progress_of, quiet
from dictpfl.deploy.reports.report import write_report
from dictpfl.deploy.reports.tensorboard import write_events
from dictpfl.deploy.reports.troubles import told
from dictpfl.deploy.runs.census import metadata_of, words_of
from dictpfl.deploy.runs.given import put_back
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import (
    CONFIG,
    HISTORY,
    LOCK,
    MODEL,
    PROGRESS,
    REPORT,
    STATE,
    SUMMARY,
    Run,
    require_closed,
    sha256_of,
    write_history,
    write_json,
)
from dictpfl.deploy.simulation.baseline import baseline
from dictpfl.deploy.simulation.cluster import require_address
from dictpfl.deploy.simulation.devices import Devices, devices
from dictpfl.deploy.simulation.founding import Founded, found, found_again, is_of_founding, simulated_agreement
from dictpfl.deploy.simulation.given import with_given
from dictpfl.deploy.simulation.observer import Observer
from dictpfl.deploy.simulation.partition import Regrouping
from dictpfl.deploy.simulation.summary import summarise
from dictpfl.deploy.simulation.troubles import devices_of, failures_of, troubles_of
from dictpfl.deploy.tensors import write_tensors
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, Coordinator
from dictpfl.server.recording import RECORDING

Engine = Literal["flower", "local"]
OnRound = Callable[[RoundRecord], None]


def simulate(
    config: FederationConfig,
    out: Path | str,
    *,
    engine: Engine = "flower",
    resume: bool = False,
    record: bool = False,
    model: Any = None,
    data: Any = None,
    task: Any = None,
    on_round: OnRound | None = None,
    on_founded: Callable[[Founded], None] | None = None,
    on_devices: Callable[[str], None] | None = None,
    ray_address: str = "",
    progress: bool | None = None,
    test_every: int = 1,
) -> Run:
    """Run a federation on this machine; every institution has a folder and a key of its own.

    Args:
        config: checked configuration.
        out: run folder; made if missing.
        engine: `flower` runs Flower's simulation runtime, `local` the same apps in this process.
        resume: go on with what a killed run left in `out`.
        record: the coordinator keeps every upload as it came (`dictpfl.server.recording`), for `dictpfl report --privacy`.
        model, data, task: objects in place of the names in the configuration (`dictpfl.deploy.simulation.given`); with the local engine.
        on_round: called with each closed round's `RoundRecord`: a logger of one's own, or one of `dictpfl.deploy.reports.loggers`.
        on_founded: called once before the first round.
        on_devices: called once with a line that says which devices institutions train on.
        ray_address: HOST:PORT of a Ray cluster's head node, or `auto`: institutions then train on its nodes, all of which see `out` and the
            working directory at the same place. Empty: this machine alone.
        progress: show rounds as they close, in a notebook's output or on standard output; None: in a notebook alone.
            Logs but warnings are silent in any case, unless the program has configured structlog itself.
        test_every: update rounds between two measurements on the test split, which can take as long as the training; the model of the last
            round is always measured, and what the federation agrees is the same.

    Raises:
        ConfigError: `out` holds something else, GPUs are asked for that are not there, or `test_every` is below 1.
        EngineError: the runtime failed; `resume` goes on from the last closed round.
        DictPFLError: data, model, parameters; before the first round.
    """
    folder = Path(out).resolve()
    if any(given is not None for given in (model, data, task)):
        if engine != "local":
            raise ConfigError(
                'objects exist in this process only, and engine flower runs others: give engine="local", or name a part as `module:name` '
                "in the configuration"
            )
        _require_room(folder, resume=resume)  # a run that is there keeps its objects
        config = with_given(config, folder, model=model, data=data, task=task)
        if on_round is not None:  # it may look at another run
            on_round = _both(on_round, lambda _: put_back(folder))
    if test_every < 1:
        raise ConfigError(
            f"test_every is {test_every}, expected 1 or more: the number of rounds from one measurement to the next"
        )
    if ray_address:
        require_address(ray_address)
    planned = devices(config, engine=engine, cluster=ray_address)
    if on_devices:
        on_devices(planned.line)
    if progress if progress is not None else in_notebook():
        with _alone(folder), progress_of(config, config.method) as shown:
            return _simulated(
                planned, folder, engine, _both(shown, on_round), on_founded, ray_address,
                resume=resume, record=record, test_every=test_every,
            )  # fmt: skip
    with _alone(folder), quiet():
        return _simulated(
            planned, folder, engine, on_round, on_founded, ray_address, resume=resume, record=record, test_every=test_every
        )  # fmt: skip


def _both(first: Callable[[Any], None], second: Callable[[Any], None] | None) -> Callable[[Any], None]:
    def told(what: Any) -> None:
        first(what)
        if second is not None:
            second(what)

    return told


def simulate_regrouped(
    config: FederationConfig,
    out: Path | str,
    regrouping: Regrouping,
    *,
    resume: bool = False,
    on_round: OnRound | None = None,
    on_founded: Callable[[Founded], None] | None = None,
) -> Run:
    """Run one institution on its own, or on the samples of all, by the local engine: a baseline of a comparison.

    Args:
        config: of one participant.
        out: run folder.
        regrouping: whose samples it has.
        resume, on_round, on_founded: see `simulate`.
    """
    folder = Path(out).resolve()
    with _alone(folder), quiet():
        return _simulated(
            devices(config, engine="local"), folder, "local", on_round, on_founded, "", resume=resume, record=False, regrouping=regrouping
        )  # fmt: skip


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder: two that write one journal destroy it.

    Raises:
        ConfigError: a process is at work there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock_if_free(folder / LOCK)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error}") from error
    if held is None:
        other = (folder / LOCK).read_text(encoding="utf-8").strip() or "unknown"
        raise ConfigError(
            f"process {other} runs a federation in {folder}; wait until it ends, stop it and `--resume`, or choose another --out"
        )
    try:
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def _simulated(
    planned: Devices,
    folder: Path,
    engine: Engine,
    on_round: OnRound | None,
    on_founded: Callable[[Founded], None] | None,
    ray_address: str,
    *,
    resume: bool,
    record: bool,
    test_every: int = 1,
    regrouping: Regrouping | None = None,
) -> Run:
    began = time.monotonic()
    earlier = _spent(folder) if resume else 0.0
    founded = _founded(planned.config, folder, regrouping, resume=resume)
    if record:
        founded = _recorded(founded, folder)
    if on_founded:
        on_founded(founded)
    observer = Observer(founded, test_every)
    history: list[RoundRecord] = []

    def watch() -> None:
        for closed in observer.poll():
            history.append(closed)
            write_history(folder, history)
            write_json(folder / PROGRESS, {"seconds": earlier + time.monotonic() - began})
            if on_round:
                on_round(closed)

    watch()
    require_closed(folder, history, founded.coordinator / JOURNAL)
    if not _finished(founded):
        (folder / SUMMARY).unlink(missing_ok=True)  # of fewer rounds: it would pass for the result of these
        try:
            _run(engine, founded, folder, watch, planned, ray_address)
        except EngineError as error:
            if reasons := failures_of(_homes(founded)):
                raise EngineError(
                    f"institutions could not go on. {'; '.join(reasons)}. Mend that: `--resume` goes on with the same configuration, "
                    "another one needs another --out"
                ) from error
            raise
        watch()
    if not _finished(founded):
        raise EngineError(
            f"the {engine} engine stopped before the last round; `--resume` goes on. See {folder}/engine.log"
            + "".join(f". {heading.capitalize()}: {text}" for heading, text in told(_troubles(founded)))
        )
    config = _as_wanted(founded, planned.config.federation.rounds)
    return _conclude(founded, config, observer, history, engine=engine, seconds=earlier + time.monotonic() - began)


def _founded(config: FederationConfig, folder: Path, regrouping: Regrouping | None, *, resume: bool) -> Founded:
    if resume and (folder / CONFIG).exists():
        founded = found_again(config, folder)
        agreement = replace(simulated_agreement(founded), rounds=config.federation.rounds)
        agreement.save(founded.coordinator / AGREEMENT)
        # Who reads the folder, to show the run or to go on with it, goes by the rounds that are wanted now.
        _write_config(folder, _as_wanted(founded, config.federation.rounds))
        return founded
    _require_room(folder, resume=resume)
    founded = found(config, folder, regrouping)
    # Written last: a folder without it was never founded whole, and is founded anew.
    _write_config(folder, founded.genesis.config)
    return founded


def _require_room(folder: Path, *, resume: bool) -> None:
    if resume and (folder / CONFIG).exists():
        return
    found_before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if any(name != LOCK and not (resume and is_of_founding(name)) for name in found_before):
        raise ConfigError(
            f"{folder} is not empty; choose another --out, or --resume what was stopped there (in Python: `out`, `resume=True`)"
        )


def _write_config(folder: Path, config: FederationConfig) -> None:
    write_private(folder / CONFIG, (config.model_dump_json(indent=1) + "\n").encode())


def _as_wanted(founded: Founded, rounds: int) -> FederationConfig:
    """The configuration that was agreed on, with the rounds that a run is resumed for."""
    agreed = founded.genesis.config
    return agreed.model_copy(update={"federation": agreed.federation.model_copy(update={"rounds": rounds})})


def _spent(folder: Path) -> float:
    try:
        return float(json.loads((folder / PROGRESS).read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _recorded(founded: Founded, folder: Path) -> Founded:
    """Make the folder in which the coordinator keeps uploads; of a run that was begun without, notes say what it lacks.

    Raises:
        ConfigError: no round is left to record.
    """
    recording = founded.coordinator / RECORDING
    if (folder / HISTORY).exists() and not recording.exists():
        if _finished(founded):
            raise ConfigError(
                f"{folder} has all its rounds behind it, and none was recorded; simulate with --record into another folder"
            )
        note = "the run was begun without --record: what it sent so far is not there to attack"
        founded = replace(founded, notes=(*founded.notes, note))
    owner_only(recording)
    return founded


def _finished(founded: Founded) -> bool:
    coordinator = Coordinator.open(founded.coordinator)
    try:
        return coordinator.finished
    finally:
        coordinator.close_journal()


def _run(
    engine: Engine, founded: Founded, folder: Path, watch: Callable[[], None], planned: Devices, ray_address: str
) -> None:
    participants = founded.genesis.config.federation.participants
    if engine == "local":
        from dictpfl.deploy.simulation.local import run_local

        try:
            run_local(founded.coordinator, founded.institutions, participants, on_poll=watch)
        finally:
            forget_institutions()
        return
    from dictpfl.deploy.simulation.flower import Places, run_flower

    run_flower(
        founded.coordinator,
        founded.institutions,
        participants,
        work=folder / "flower",
        log=folder / "engine.log",
        on_poll=watch,
        finished=lambda: _finished(founded),
        by_name=founded.genesis.config.federation.sample > 0,
        places=Places(planned.client_cpus, planned.client_gpus, planned.gpus, ray_address),
    )


def _homes(founded: Founded) -> list[Path]:
    return [founded.home(index) for index in range(founded.genesis.config.federation.participants)]


def _troubles(founded: Founded) -> dict[str, Any]:
    return troubles_of(founded.genesis, _homes(founded))


def _spent_at_most(founded: Founded) -> dict[str, Any] | None:
    """Return the most that any institution spent; None without differential privacy."""
    genesis = founded.genesis
    memories = [Memory(institution / "memory", genesis.federation) for institution in _homes(founded)]
    accounts = [spent(genesis.config, memory.path) for memory in memories]
    known = [account for account in accounts if account is not None]
    return max(known, key=lambda one: float(one["epsilon"]), default=None)


def _conclude(
    founded: Founded,
    config: FederationConfig,
    observer: Observer,
    history: list[RoundRecord],
    *,
    engine: str,
    seconds: float,
) -> Run:
    folder = founded.folder
    tensors = {name: tensor.contiguous().clone() for name, tensor in observer.merged().state_dict().items()}
    write_tensors(folder / MODEL, tensors, metadata_of(words_of(founded.genesis, folder)))
    write_private(folder / STATE, to_bytes(observer.state, founded.genesis.federation))
    history = observer.completed(history)
    write_history(folder, history)
    summary: dict[str, Any] = summarise(
        founded,
        history,
        metric=task_of(config.measuring).metric_name,
        state=observer.state,
        seconds_total=seconds,
        engine=engine,
        test_counts=observer.split.counts,
    )
    summary["metrics"] = observer.figures
    summary["baseline"] = baseline(founded, float(summary["test"]))
    if (masks := observer.masks()) is not None:
        summary["sparsity"] = masks.facts({name: block_of(name) for name in masks.by_name})
    summary["privacy"] = _spent_at_most(founded)
    summary["troubles"] = _troubles(founded)
    summary["devices"] = devices_of(_homes(founded))
    summary["model_sha256"] = sha256_of(folder / MODEL)
    write_json(folder / SUMMARY, summary)
    run = Run(folder, config, summary, history)
    write_report(run, founded.genesis, folder / REPORT)
    write_events(run, folder / "tensorboard")
    return run
