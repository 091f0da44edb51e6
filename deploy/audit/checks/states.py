"""Replay of shared state from the sums alone, and what must agree with it: uploads, tags of states, memories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError
from dictpfl.deploy.audit.checks.check import Check
from dictpfl.deploy.audit.checks.opened import Opening, Upload
from dictpfl.deploy.audit.checks.sums import aggregates, is_tagged, opened_sums
from dictpfl.deploy.audit.folder import RunFolder
from dictpfl.deploy.audit.formats.blobs import Blob
from dictpfl.deploy.audit.replay.ledger import Ledger, read_ledger
from dictpfl.deploy.audit.replay.plan import Plan, padded_components, plan
from dictpfl.deploy.audit.replay.rounds import finished, is_provided, start
from dictpfl.deploy.audit.replay.state import State


@dataclass
class Replay:
    """Course of shared state over a run.

    Attributes:
        states: state before each round.
        plans: plan of each round that had a sum.
        faults: what could not be replayed.
    """

    states: dict[int, State] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def replay_of(run: RunFolder, opening: Opening) -> Replay:
    """Replay a run; sums that cannot be read or opened end it, and are told by `dictpfl.deploy.audit.checks.sums`."""
    sums = aggregates(run, [])
    return replayed(run, sums, opened_sums(opening, sums)[0])


def checks(run: RunFolder, opening: Opening, replay: Replay) -> Iterator[Check]:
    """Check a run against its replay."""
    yield Check.every("rounds replay from the sums alone", len(run.rounds), replay.faults)
    unlawful = [*_unlawful(run, opening, replay)]
    yield Check.every("uploads hold one ledger, and digits of their round's plan", len(opening.uploads), unlawful)
    yield from _states(run, opening, aggregates(run, []), replay)


def replayed(run: RunFolder, sums: Mapping[int, Blob], opened: Mapping[int, Ints]) -> Replay:
    """Replay shared state from genesis and the opened sums."""
    agreement, replay = run.agreement, Replay()
    state = start(agreement)
    replay.states[state.round] = state
    for closed in run.rounds:
        blob = sums.get(closed.round)
        if blob is None or closed.round != state.round or closed.round not in opened:
            replay.faults.append(f"round {closed.round}: no sum to replay, round {state.round} is next")
            break
        if not is_provided(agreement, state, blob.kind):
            replay.faults.append(f"round {closed.round}: {blob.kind}, which the agreement does not provide for here")
        made = replay.plans[closed.round] = plan(agreement, state, blob.kind)
        if opened[closed.round].size != padded_components(agreement, made):
            found = opened[closed.round].size
            replay.faults.append(
                f"round {closed.round}: {found} components, expected {padded_components(agreement, made)}"
            )
        ids = [entry.upload_id for entry in blob.entries]
        try:
            after = finished(agreement, state, made, opened[closed.round], blob.clear, ids)
            if closed.void and is_tagged(run, blob):
                replay.faults.append(f"round {closed.round}: said to be void, though its sum is good")
        except RoundError as error:
            after = state.void(blob.kind)
            if not closed.void:
                replay.faults.append(f"round {closed.round}: {error}")
        if closed.void:
            after = state.void(blob.kind)
        state = replay.states[after.round] = after
    return replay


def _unlawful(run: RunFolder, opening: Opening, replay: Replay) -> Iterator[str]:
    """Hold single uploads to what a sum alone would not show: an upload may not use the room of others."""
    agreement = run.agreement
    for upload in opening.uploads:
        made, components = replay.plans.get(upload.blob.round), upload.components
        if made is None or made.kind != upload.blob.kind:
            continue
        if components.size != padded_components(agreement, made) or components[made.components :].any():
            yield f"{upload.name}: {components.size} components, expected {made.components} and zeros behind them"
            continue
        try:
            ledger = read_ledger(agreement, components)
        except RoundError as error:
            yield f"{upload.name}: {error}"
            continue
        if ledger.participants != 1 or not 0 <= ledger.samples <= agreement.sample_cap or (ledger.codes < 0).any():
            yield f"{upload.name}: a ledger of {ledger.participants} participants and {ledger.samples} samples"
        yield from _too_large(upload, made, ledger)


def _too_large(upload: Upload, made: Plan, ledger: Ledger) -> Iterator[str]:
    values = [(ledger.codes, made.codes)]
    for place, section in made.encrypted:
        values.append((section.digits.unpacked(upload.components[place], section.index.size), section.digits))
        if not section.digits.whole(upload.components[place]):
            yield f"{upload.name}: components that are no digits"
    for numbers, digits in values:
        if numbers.size and int(np.abs(numbers).max()) > digits.largest:
            yield f"{upload.name}: a value beyond {digits.largest}"
    if made.tally is not None and int(np.abs(values[-1][0]).max(initial=0)) > made.tally.most:
        yield f"{upload.name}: an integer of tally {made.tally.name!r} beyond {made.tally.most}"


def _states(run: RunFolder, opening: Opening, sums: Mapping[int, Blob], replay: Replay) -> Iterator[Check]:
    """Compare states with the tags that blobs carry, and with memories."""
    said = [(name, blob) for name, blob in opening.blobs.items()]
    said += [(f"sum of round {number}", blob) for number, blob in sums.items()]
    tags = {number: state.tag(run.agreement.seed) for number, state in replay.states.items()}
    wrong = [f"{name}: made from another state" for name, blob in said if tags.get(blob.round) != blob.state_tag]
    yield Check.every("blobs carry the tag of the replayed state of their round", len(said), wrong)
    yield Check.every(
        "memories hold the replayed state, bit for bit", len(run.parties), [*_other_memories(run, replay)]
    )


def _other_memories(run: RunFolder, replay: Replay) -> Iterator[str]:
    for party in run.parties:
        state = replay.states.get(party.state.round)
        if state is None:
            yield f"{party.name}: at round {party.state.round}, which was not replayed"
        elif (state.digest, state.acknowledged) != (party.state.digest, party.state.acknowledged):
            yield f"{party.name}: another state before round {state.round}, digest {party.state.digest.hex()[:16]}"
