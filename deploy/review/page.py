"""privacy.html: the document itself, self-contained, for people who decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dictpfl.client.folder import DIARY
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.deploy.attacks.results import RESULTS, PrivacyResults
from dictpfl.deploy.ceremony.custody import LOG
from dictpfl.deploy.reports.exposure import Exposure, exposure
from dictpfl.deploy.reports.templates import template
from dictpfl.deploy.review.audited import REPORT, audit_of, by_topic, checked_elsewhere
from dictpfl.deploy.review.cards import cards
from dictpfl.deploy.review.checklist import checklist
from dictpfl.deploy.review.custody import logs
from dictpfl.deploy.review.differences import differences
from dictpfl.deploy.review.egress import egress
from dictpfl.deploy.review.judged import PARTIES, Judgement, judge, labels_of
from dictpfl.deploy.review.parties import Parties
from dictpfl.deploy.review.refused import cap, refused
from dictpfl.deploy.review.risks import Known, risks
from dictpfl.deploy.review.seen import who_saw_what
from dictpfl.deploy.review.settings import meanings
from dictpfl.deploy.review.spending import spending
from dictpfl.deploy.runs.run import CONFIG, HISTORY, SUMMARY, machine_facts, sha256_of, versions
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.recording import EVENTS, RECORDING

PAGE, ATTACK = "privacy.html", "attack"
"""The document's name, and the folder in a run folder where results of an attack are looked for."""


@dataclass(frozen=True)
class Attacked:
    """Results of an attack and the folder with their pictures."""

    folder: Path
    results: PrivacyResults


def write_review(
    folder: Path | str, out: Path | str | None = None, *, attack: Path | str | None = None, pictures: bool = True
) -> Path:
    """Make the document for a review board; returns its path.

    Args:
        folder: of a simulation, of an attack, of a party of a deployment, or one that holds several of these.
        out: file to write; None: privacy.html in `folder`.
        attack: folder of an attack's results; None: `folder` itself or `attack` in it, if there are any.
        pictures: show reconstructions, and with them the training samples that they are compared with.

    Raises:
        ConfigError: nothing to report on, or damaged results.
        DictPFLError: a party's files are damaged.
    """
    parties = Parties.find(Path(folder))
    attacked = _attacked(parties, Path(attack) if attack is not None else None)
    results = attacked.results if attacked else None
    config = parties.config or (
        FederationConfig.model_validate(results.config) if results and not parties.agreement else None
    )
    judgement = judge(results, config) if results else None
    record, custody = egress(parties), logs(parties.folder)
    elsewhere = checked_elsewhere(results)
    ours = labels_of(config) if config else set()
    known = replace(
        _known(parties, config, judgement),
        exposure=_exposure(parties),
        audit=audit_of(parties.folder, parties.agreement.uploads.federation if parties.agreement else b""),
        epsilon=spending(parties),
        elsewhere=[line for line in elsewhere if line.of in ours],
    )
    page = template("privacy.html.j2").render(
        parties=parties,
        config=config,
        title=_title(parties, config),
        kind=_kind(parties),
        cards=cards(known),
        audit=known.audit,
        topics=by_topic(known.audit, elsewhere),
        insecure=config.insecurities if config else parties.agreement.insecurities if parties.agreement else (),
        seen=who_saw_what(parties, record, results),
        names=PARTIES,
        judgement=judgement,
        results=results,
        pictures=judgement.pictures(attacked.folder) if judgement and attacked and pictures else [],
        hidden=bool(judgement and not pictures),
        differences=differences(config, results.config) if config and results else [],
        settings=meanings(config, parties.agreement, known.epsilon),
        risks=risks(known),
        custody=custody,
        refused=refused(parties),
        cap=cap(parties),
        record=record,
        evidence=list(_evidence(parties, attacked)),
        versions=_versions(parties, results),
        checklist=checklist(known, record, custody, results),
        made_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = Path(out) if out is not None else parties.folder / PAGE
    try:
        write_private(path, page.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file with --output") from error
    return path


def _attacked(parties: Parties, named: Path | None) -> Attacked | None:
    """Return the results of an attack; those that were named must be there."""
    if named is not None:
        return Attacked(named, PrivacyResults.load(named))
    for place in (parties.folder, parties.folder / ATTACK):
        if (place / RESULTS).exists():
            return Attacked(place, PrivacyResults.load(place))
    return None


def _exposure(parties: Parties) -> Exposure | None:
    """Judge by the folders that are here; None of a coordinator alone, which knows neither layers nor samples."""
    return exposure(parties.genesis, parties.institutions) if parties.genesis else None


def _known(parties: Parties, config: FederationConfig | None, judgement: Judgement | None) -> Known:
    simulated = parties.simulated or not (parties.coordinators or parties.institutions)
    if config is not None:
        encrypted = config.encryption.sealer == "ckks" and config.encryption.sealed_share >= 1.0
        on = config.defences
        return Known(config, on.masks, on.integrity, encrypted, config.least, simulated, judgement)
    agreement = parties.agreement
    if agreement is None:
        raise ConfigError(
            f"{parties.folder} holds no agreement that can be read; name the folder of a party that has joined"
        )
    encrypted = agreement.encrypted and not agreement.uploads.max_clear
    return Known(None, agreement.masks, bool(agreement.signers), encrypted, agreement.least, simulated, judgement)


def _kind(parties: Parties) -> str:
    if parties.simulated:
        return "A simulation: one machine played all parties. What crossed between them is what would cross in a deployment."
    names = ", ".join(parties.names.values())
    there = [f"{len(parties.coordinators)} coordinator"] if parties.coordinators else []
    there += [f"{len(parties.institutions)} of the institutions ({names})"] if parties.institutions else []
    if there:
        return f"A deployment, as far as the folders of {' and '.join(there)} show it. Other parties' folders are not here."
    return "An attack's results without a run: what was found holds for the attacked federation, which this machine simulated."


def _title(parties: Parties, config: FederationConfig | None) -> str:
    if config is not None:
        return config.name
    agreement = parties.agreement
    return f"federation {agreement.uploads.federation.hex()[:12]}" if agreement else parties.folder.name


def _evidence(parties: Parties, attacked: Attacked | None) -> Iterator[tuple[str, int, str]]:
    """Files that this document was made from: name, bytes, SHA-256."""
    names = [parties.folder / name for name in (SUMMARY, HISTORY, CONFIG, REPORT)]
    # A journal is a database, whose bytes change when it is read.
    names += [folder / name for folder in parties.coordinators for name in (AGREEMENT, f"{RECORDING}/{EVENTS}")]
    names += [place / DIARY for place in parties.institutions]
    names += sorted(parties.folder.rglob(LOG))
    for path in names:
        try:
            yield str(path.relative_to(parties.folder)), path.stat().st_size, sha256_of(path)
        except FileNotFoundError:
            continue
        except OSError as error:  # the record of what was sent says so, too
            yield str(path.relative_to(parties.folder)), 0, f"cannot be read: {error.strerror}"
    if attacked:
        path = attacked.folder / RESULTS
        yield f"attack: {RESULTS}", path.stat().st_size, sha256_of(path)


def _versions(parties: Parties, results: PrivacyResults | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Versions by what they were used for."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if parties.run is not None:
        rows.append(("the run", {**parties.run.summary["versions"], **parties.run.summary["machine"]}))
    if results is not None:
        machine = dict(results.machine)
        rows.append(("the attack", {**machine.pop("versions", {}), **machine}))
    rows.append(("this document", {**versions(), **machine_facts()}))
    return rows
