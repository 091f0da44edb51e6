"""What an operator may see: at the coordinator times, sizes and counts; at an institution its own numbers, too."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from client.site import DIARY, SiteSettings
from common.errors import DictPFLError
from deploy.operations.apps import agreed
from deploy.operations.certificates import validity
from deploy.operations.control import Node, connected
from deploy.operations.health import processes
from deploy.operations.settings import CoordinatorSettings
from server.agreement import Agreement
from server.coordinator import AGREEMENT, JOURNAL, open_journal

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
    found: dict[str, Any] = {
        "federation": limits.federation.hex(),
        "key": limits.fingerprint.hex(),
        "encrypted": agreement.encrypted,
        "insecurities": list(agreement.insecurities),
        "bundle": agreed(folder, folder, settings.bundle),
        "rounds_wanted": agreement.rounds,
        "epoch": agreement.epoch,
        "stopped_before_round": _stopped(folder, agreement),
        "rounds": _rounds(folder, agreement),
        "processes": processes(folder),
        "nodes": _nodes(folder, settings),
    }
    try:
        found["certificate_days_left"] = round(validity(folder / settings.certificate).days_left, 1)
    except DictPFLError:
        found["certificate_days_left"] = None
    return found


def _rounds(folder: Path, agreement: Agreement) -> list[dict[str, Any]]:
    if not (folder / JOURNAL).exists():
        return []
    journal = open_journal(folder, agreement)
    try:
        sums = journal.contributors()
        return [
            {
                "round": r.round,
                "kind": str(r.kind),
                "contributors": sums[r.round][0],
                "ciphertexts": r.ciphertexts,
                "bytes_up": r.bytes_up,
                "bytes_down": sums[r.round][1],
                "seconds": round(r.ended - r.started, 3),
                "fold_seconds": round(r.fold_seconds, 3),
                "ended": r.ended,
                "rejected": dict(r.rejected),
            }
            for r in journal.rounds()
        ]
    finally:
        journal.close()


def _stopped(folder: Path, agreement: Agreement) -> int | None:
    """The first round for which institutions delivered nothing any more, if they stopped early."""
    if not (folder / JOURNAL).exists():
        return None
    journal = open_journal(folder, agreement)
    try:
        return journal.stopped
    finally:
        journal.close()


def _nodes(folder: Path, settings: CoordinatorSettings) -> list[dict[str, Any]] | None:
    """None: no SuperLink answers."""
    try:
        with connected(settings.superlink, folder / settings.ca) as control:
            return [_node(node, settings) for node in control.nodes()]
    except DictPFLError:
        return None


def _node(node: Node, settings: CoordinatorSettings) -> dict[str, Any]:
    # Flower keeps until when a node counts as alive: two heartbeats after it was last heard of.
    last = node.online_until - 2 * settings.heartbeat if node.online_until else None
    ago = None if last is None else round(max(0.0, time.time() - last), 1)
    return {"node": node.node, "name": node.name, "status": node.status, "seconds_since_seen": ago}


def of_institution(folder: Path) -> dict[str, Any]:
    """An institution's position and its own measurements, from memory and diary; none of it is sent anywhere.

    Raises:
        DictPFLError: the folder cannot be used.
    """
    from client import delivery
    from client.epochs import home
    from client.memory import Memory
    from client.privacy import spent
    from common.genesis import Genesis
    from common.round import stopped

    folder = folder.resolve()
    site, genesis = SiteSettings.load(folder), Genesis.load(home(folder))
    memory = Memory(folder / "memory", genesis.federation)
    record = memory.recall()
    best = record.shared.course.best if record else None
    return {
        "name": site.name,
        "federation": genesis.federation.hex(),
        "round": record.shared.round if record else 0,
        "updates": record.shared.updates if record else 0,
        "state_digest": record.shared.digest.hex() if record else None,
        "best_after_updates": best.updates if best else None,
        "stopped": record is not None and stopped(genesis.law, record.shared),
        "upload_waiting_for": record.pending.round if record and record.pending else None,
        "privacy": spent(genesis.config, memory.path),
        "processes": processes(folder),
        "delivery": delivery.summary(_diary(folder / DIARY, _DELIVERY_LINES)),
        "diary": _diary(folder / DIARY, _DIARY_LINES),
    }


def _diary(path: Path, most: int) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[-most:]
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut off by a crash
    return found
