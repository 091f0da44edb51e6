"""Standing of a federation: at the coordinator times, sizes and counts; at an institution its own numbers, too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dictpfl.client.folder import DIARY, InstitutionSettings
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.common.files import in_shell
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.operations import disk
from dictpfl.deploy.operations.agreed import agreed
from dictpfl.deploy.operations.certificates import days_left
from dictpfl.deploy.operations.control import Node, RunState, connected
from dictpfl.deploy.operations.health import down, last_contact, processes
from dictpfl.deploy.operations.places import RUN, SECRET
from dictpfl.deploy.operations.readiness import trouble as trouble_here
from dictpfl.deploy.operations.readiness import warnings
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, open_journal
from dictpfl.server.journal import Journal
from dictpfl.server.troubles import asked_again_text, refused_text, trouble, void_text

_DIARY_LINES, _DELIVERY_LINES = 12, 400


def of_coordinator(folder: Path) -> dict[str, Any]:
    """State of a federation from its journal, and of its nodes from the SuperLink if that runs.

    Raises:
        DictPFLError: the folder cannot be used.
    """
    folder = folder.resolve()
    agreement = Agreement.load(folder / AGREEMENT)
    settings = CoordinatorSettings.load(folder)
    limits = agreement.uploads
    standing: dict[str, Any] = {
        "federation": limits.federation.hex(),
        "key": limits.fingerprint.hex(),
        "encrypted": agreement.encrypted,
        "insecurities": list(agreement.insecurities),
        "bundle": agreed(folder, folder, settings.bundle),
        "rounds_wanted": agreement.rounds,
        "epoch": agreement.epoch,
        **_journalled(folder, agreement),
        "not_ready": trouble_here(folder),
        "warnings": warnings(folder),
        "disk": disk.trouble(folder),
        "processes": processes(folder),
        "down": down(folder),
        "disk_free": disk.free(folder),
    }
    standing["nodes"], last = _asked(folder, settings)
    standing["overdue"] = _overdue(folder, agreement, standing)
    standing["no_run"] = _no_run(folder, standing, last)
    standing["certificate_days_left"] = days_left(folder / settings.certificate)
    return standing


def _overdue(folder: Path, agreement: Agreement, standing: Mapping[str, Any]) -> bool:
    """Tell whether rounds are wanted and for two deadlines none has closed, counted from when they were agreed on at the earliest."""
    wanted_since = (folder / AGREEMENT).stat().st_mtime
    last = max([wanted_since, *(one["ended"] for one in standing["rounds"])])
    return not standing["finished"] and time.time() - last > 2 * agreement.deadline_seconds


def _no_run(folder: Path, standing: Mapping[str, Any], last: RunState | None) -> str:
    """Say that rounds are wanted and nobody runs them; empty where they are run, or where a SuperLink that is away says enough."""
    if standing["finished"] or standing["nodes"] is None or (last is not None and not last.over):
        return ""
    done = sum(one["kind"] == "update" and not one["void"] for one in standing["rounds"])
    how = ", ".join(filter(None, (last.sub_status, last.details))) if last else ""
    return (
        f"{done} of {standing['rounds_wanted']} update rounds are closed, and nobody runs them"
        f"{f' since the last run ended ({how})' if how else ''}; `dictpfl run --folder {in_shell(folder)}` goes on"
    )


def _journalled(folder: Path, agreement: Agreement) -> dict[str, Any]:
    """Return what the journal tells; of one that does not exist, that there is nothing in it."""
    told: dict[str, Any] = {"stopped_before_round": None, "rounds": [], "refused": [], "excluded": [], "trouble": ""}
    told |= {"asked_again": None, "times_asked_again": 0, "finished": False}
    if not (folder / JOURNAL).exists():
        return told
    journal = open_journal(folder, agreement)
    try:
        return told | {
            "stopped_before_round": journal.stopped,
            "rounds": _rounds(journal),
            "refused": [asdict(one) | {"text": refused_text(one)} for one in journal.disputed()],
            "excluded": [asdict(one) for one in journal.excluded()],
            "trouble": trouble(journal),
            "asked_again": asdict(asked) | {"text": asked_again_text(asked)}
            if (asked := journal.asked_again())
            else None,
            "times_asked_again": journal.times_asked_again(),
            "finished": journal.finished(agreement.rounds),
        }
    finally:
        journal.close()


def _rounds(journal: Journal) -> list[dict[str, Any]]:
    sums, voids = journal.contributors(), {void.round: void_text(void) for void in journal.voids()}
    vain = journal.vain_attempts()
    return [
        {
            "round": r.round,
            "kind": str(r.kind),
            "contributors": sums[r.round][0],
            "senders": list(r.senders),
            "ciphertexts": r.ciphertexts,
            "bytes_up": r.bytes_up,
            "bytes_down": sums[r.round][1],
            "seconds": round(r.ended - r.started, 3),
            "fold_seconds": round(r.fold_seconds, 3),
            "ended": r.ended,
            "rejected": dict(r.rejected),
            "void": voids.get(r.round, ""),
            "vain": vain.get(r.round, []),
        }
        for r in journal.rounds()
    ]


def _asked(folder: Path, settings: CoordinatorSettings) -> tuple[list[dict[str, Any]] | None, RunState | None]:
    """Return all nodes, or None where no SuperLink answers; and the newest run, or None where there was none."""
    try:
        with connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
            return [_node(node, settings) for node in control.nodes()], next(reversed(control.runs()), None)
    except DictPFLError:
        return None, None


def _node(node: Node, settings: CoordinatorSettings) -> dict[str, Any]:
    # Flower keeps until when a node counts as alive: two heartbeats after it was last heard of.
    last = node.online_until - 2 * settings.heartbeat if node.online_until else None
    ago = None if last is None else round(max(0.0, time.time() - last), 1)
    return {"node": node.node, "name": node.name, "status": node.status, "seconds_since_seen": ago}


def of_institution(folder: Path) -> dict[str, Any]:
    """Return an institution's position and its own measurements, from memory and diary; none of it is sent anywhere.

    Raises:
        DictPFLError: the folder cannot be used.
    """
    from dictpfl.client.keys.epochs import home
    from dictpfl.client.memory import diary as delivery
    from dictpfl.client.memory.record import Memory
    from dictpfl.client.privacy.guard import spent
    from dictpfl.common.genesis import Genesis
    from dictpfl.common.law.order import stopped
    from dictpfl.deploy.operations.refusals import Refusals

    folder = folder.resolve()
    institution, genesis = InstitutionSettings.load(folder), Genesis.load(home(folder))
    memory = Memory(folder / "memory", genesis.federation)
    record = memory.recall()
    best = record.shared.course.best if record else None
    diary = delivery.read_diary(folder / DIARY)
    lately = diary[-_DELIVERY_LINES:]
    return {
        "name": institution.name,
        "federation": genesis.federation.hex(),
        "round": record.shared.round if record else 0,
        "updates": record.shared.updates if record else 0,
        "state_digest": record.shared.digest.hex() if record else None,
        "state_words": spoken(record.tag) if record and record.tag else None,
        "best_after_updates": best.updates if best else None,
        "stopped": record is not None and stopped(genesis.law, record.shared),
        "upload_waiting_for": record.pending.round if record and record.pending else None,
        "privacy": spent(genesis.config, memory.path),
        "processes": processes(folder),
        "down": down(folder),
        "coordinator_reached": last_contact(folder),
        "not_ready": trouble_here(folder),
        "warnings": warnings(folder),
        "disk": disk.trouble(folder),
        "disk_free": disk.free(folder),
        "delivery": delivery.summary(lately),
        "void": delivery.troubles(lately)["void"],
        "not_answered": _not_answered(lately),
        "refusals": Refusals(folder).standing().to_json(),
        "certificate_days_left": _authority_days_left(folder),
        "diary": diary[-_DIARY_LINES:],
    }


def _not_answered(diary: Sequence[Mapping[str, Any]]) -> str:
    """Say why the last request was not answered as asked; empty where it was."""
    last = diary[-1] if diary else {}
    return f"round {last['round']}: {last.get('reason')}" if last.get("event") == "failed" else ""


def _authority_days_left(folder: Path) -> float | None:
    """Days of the certificate of whoever signs the coordinator's; None before the first `up`."""
    with suppress(ConfigError):
        return days_left(folder / NodeSettings.load(folder).ca)
    return None
