"""Simulated federations: found, run on an engine, watch, and leave a run folder behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file

from client.institution import forget_institutions
from client.memory import Memory
from client.privacy import spent
from client.snapshot import to_bytes
from client.tasks import load_task
from common.config import FederationConfig
from common.errors import ConfigError, EngineError
from common.files import write_private
from common.keys import owner_only
from deploy.founding import COORDINATOR, SITES, TEST, Founded, found, found_again, simulated_agreement
from deploy.observer import Observer, RoundRecord
from deploy.report import write_report
from deploy.run import CONFIG, HISTORY, MODEL, REPORT, STATE, SUMMARY, Run, sha256_of, summarise, write_json
from deploy.tensorboard import write_events
from server.coordinator import AGREEMENT, Coordinator
from server.recording import RECORDING

Engine = Literal["flower", "local"]
OnRound = Callable[[RoundRecord], None]


def simulate(
    config: FederationConfig,
    out: Path | str,
    *,
    engine: Engine = "flower",
    resume: bool = False,
    record: bool = False,
    on_round: OnRound | None = None,
    on_founded: Callable[[Founded], None] | None = None,
) -> Run:
    """Run a federation on this machine; every institution has a folder and a key of its own.

    Args:
        config: checked configuration.
        out: run folder; made if missing.
        engine: `flower` runs Flower's simulation runtime, `local` the same apps in this process.
        resume: go on with what a killed run left in `out`.
        record: the coordinator keeps every upload as it came (`server.recording`), for `dictpfl report --privacy`.
        on_round: called with each closed round.
        on_founded: called once before the first round.

    Raises:
        ConfigError: `out` holds something else.
        EngineError: the runtime failed; `resume` goes on from the last closed round.
        DictPFLError: data, model, parameters; before the first round.
    """
    began = time.monotonic()
    folder = Path(out).resolve()
    earlier = _spent(folder) if resume else 0.0
    founded = _founded(config, folder, resume=resume)
    if record:
        owner_only(founded.coordinator / RECORDING)
    if on_founded:
        on_founded(founded)
    observer = Observer(founded)
    history: list[RoundRecord] = []

    def watch() -> None:
        for closed in observer.poll():
            history.append(closed)
            write_json(folder / "progress.json", {"seconds": earlier + time.monotonic() - began})
            if on_round:
                on_round(closed)

    watch()
    if not _finished(founded):
        _run(engine, founded, folder, watch)
        watch()
    if not _finished(founded):
        raise EngineError(
            f"the {engine} engine stopped before the last round; `--resume` goes on. See {folder}/engine.log"
        )
    return _conclude(founded, observer, history, engine=engine, seconds=earlier + time.monotonic() - began)


def _founded(config: FederationConfig, folder: Path, *, resume: bool) -> Founded:
    if resume and (folder / CONFIG).exists():
        founded = found_again(config, folder)
        agreement = replace(simulated_agreement(founded), rounds=config.federation.rounds)
        agreement.save(founded.coordinator / AGREEMENT)
        return founded
    found_before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found_before - ({COORDINATOR, SITES, TEST} if resume else set()):
        raise ConfigError(f"{folder} is not empty; choose another --out, or --resume what was stopped there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error}") from error
    founded = found(config, folder)
    # Written last: a folder without it was never founded whole, and is founded anew.
    write_private(folder / CONFIG, (founded.genesis.config.model_dump_json(indent=1) + "\n").encode())
    return founded


def _spent(folder: Path) -> float:
    try:
        return float(json.loads((folder / "progress.json").read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _finished(founded: Founded) -> bool:
    coordinator = Coordinator.open(founded.coordinator)
    try:
        return coordinator.finished
    finally:
        coordinator.close_journal()


def _run(engine: Engine, founded: Founded, folder: Path, watch: Callable[[], None]) -> None:
    participants = founded.genesis.config.federation.participants
    if engine == "local":
        from deploy.engines.local import run_local

        try:
            run_local(founded.coordinator, founded.sites, participants, on_poll=watch)
        finally:
            forget_institutions()
        return
    from deploy.engines.flower import run_flower

    run_flower(
        founded.coordinator,
        founded.sites,
        participants,
        work=folder / "flower",
        log=folder / "engine.log",
        on_poll=watch,
        finished=lambda: _finished(founded),
    )


def _spent_at_most(founded: Founded) -> dict[str, Any] | None:
    """The most that any institution spent; None without differential privacy."""
    genesis = founded.genesis
    sites = [founded.site(index) for index in range(genesis.config.federation.participants)]
    accounts = [spent(genesis.config, Memory(site / "memory", genesis.federation).path) for site in sites]
    found = [account for account in accounts if account is not None]
    return max(found, key=lambda one: float(one["epsilon"]), default=None)


def _conclude(founded: Founded, observer: Observer, history: list[RoundRecord], *, engine: str, seconds: float) -> Run:
    folder, config = founded.folder, founded.genesis.config
    tensors = {name: tensor.contiguous().clone() for name, tensor in observer.merged().state_dict().items()}
    save_file(tensors, folder / MODEL)
    write_private(folder / STATE, to_bytes(observer.state, founded.genesis.federation))
    history = [observer.timed(record) for record in history]
    lines = "".join(json.dumps(record.to_json()) + "\n" for record in history)
    write_private(folder / HISTORY, lines.encode())
    summary: dict[str, Any] = summarise(
        founded,
        history,
        metric=load_task(config.training.task).metric_name,
        state=observer.state,
        seconds_total=seconds,
        engine=engine,
    )
    summary["privacy"] = _spent_at_most(founded)
    summary["model_sha256"] = sha256_of(folder / MODEL)
    write_json(folder / SUMMARY, summary)
    run = Run(folder, config, summary, history)
    write_report(run, founded.genesis.layout, folder / REPORT)
    write_events(run, folder / "tensorboard")
    return run
