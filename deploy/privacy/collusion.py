"""The coordinator and one institution together, against another: the limit of a key that all institutions share.

The coordinator has the victim's upload, the institution has the key. Called on any recorded run, with whatever defences
it has: an upload that is masked besides does not pass the opener's checks, so the attacker leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.site import GENESIS_WEIGHTS, SiteSettings
from client.speed import rate
from client.tasks import load_task
from client.training import train
from client.workbench import Workbench
from common.errors import DictPFLError
from common.ledger import ledger_size
from common.opening import CKKSOpener
from common.round import carried
from common.seeds import small_seed
from common.state import Floats
from common.transform import rounded
from common.wire import UPLOAD, Blob
from deploy.privacy.intervals import gain_interval, mean_interval
from deploy.privacy.results import Finding
from deploy.privacy.stage import Stage, Victim
from deploy.privacy.views import CollusionView, SeenUpload

_FIRM = 0.99
"""Correlation from which on an update counts as opened; what is sent is rounded, so that 1 is not reached."""


@dataclass(frozen=True)
class Pried:
    """What came out of one upload.

    Attributes:
        victim: the institution. `passes`: the opener's own checks found nothing wrong.
        correlation: with the true update, over the coordinates that were sent.
        chance: what random numbers reach as a correlation, by its size.
        largest: largest difference from the true update, in steps of the grid; 0.5 is all that rounding leaves.
    """

    victim: int
    passes: bool
    correlation: float
    chance: float
    largest: float


def pry(view: CollusionView, seen: SeenUpload) -> Floats:
    """An upload opened without asking whether what comes out can be trusted: w * values, float64, shape (size,)."""
    genesis, opener = view.institution.keys.at(seen.round)
    plan = view.institution.sums[seen.round].plan
    parsed = Blob.parse(seen.blob, genesis.uploads, direction=UPLOAD, kind=plan.kind, round=plan.round)
    length, bits = parsed.header.item_length, genesis.parameters.payload_bits
    if isinstance(opener, CKKSOpener):
        items = [parsed.sealed[i : i + length] for i in range(0, len(parsed.sealed), length)]
        most = genesis.parameters.components
        # An attacker does not stop at a guard that is not zero.
        noisy = np.concatenate([opener._decrypted(item)[:most] for item in items])  # noqa: SLF001
        half = 1 << (bits - 1)
        components = (rounded(noisy, genesis.parameters.scale_bits) + half) % (1 << bits) - half
    else:
        components = opener.open(parsed.sealed, length)
    needed = ledger_size(len(genesis.layout.entries)) + plan.sealed.digits.components(plan.sealed.index.size)
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    return carried(genesis.law, plan, components[:needed], clear)


def true_update(stage: Stage, victim: Victim) -> Floats:
    """What the victim trained in its first update round: w * (local - x), by training again as it did.

    Later rounds carry a residual besides, which nobody else knows.
    """
    number, site, genesis = victim.seen.round, stage.site(victim.index), stage.genesis
    view = stage.institution(victim.index)
    state = view.sums[number].before
    twin = Workbench(genesis, site / GENESIS_WEIGHTS).twin_at(state, {})
    before, training = twin.read(), genesis.config.training
    seed = small_seed(genesis.seed, "training", SiteSettings.load(site).name, number)
    factor = rate(training, state.updates, genesis.config.federation.rounds)
    sent = view.sums[number].plan.mask if genesis.law.pruning.pruned == "freeze" else None
    train(twin, view.train, training, load_task(training.task), seed=seed, sent=sent, rate=factor)
    return victim.weight * (twin.read() - before)


def collusion_attack(stage: Stage, number: int | None = None) -> Sequence[Pried]:
    """The coordinator and institution 0 open the uploads of all others in a round (default: the first update round)."""
    number = stage.update_rounds[0] if number is None else number
    plan = stage.collusion.institution.sums[number].plan
    found = []
    for victim in stage.victims(number):
        if victim.index == 0:
            continue
        try:
            stage.collusion.open(victim.seen)
            passes = True
        except DictPFLError:
            passes = False
        pried, truth = pry(stage.collusion, victim.seen), true_update(stage, victim)
        apart = np.abs(pried - truth)[plan.sealed.index] / plan.sealed.steps
        correlation = np.corrcoef(pried[plan.mask], truth[plan.mask])[0, 1]
        numbers = np.random.default_rng(victim.index).normal(size=int(plan.mask.sum()))
        chance = abs(float(np.corrcoef(numbers, truth[plan.mask])[0, 1]))
        found.append(Pried(victim.index, passes, float(np.nan_to_num(correlation)), chance, float(apart.max())))
    return found


def collusion_finding(stage: Stage, label: str) -> Finding:
    """The attack as a line of the results; success is an update opened whole."""
    found = collusion_attack(stage)
    values = [abs(one.correlation) for one in found]
    chances = [one.chance for one in found]
    exact = all(one.largest <= 0.5 + 1e-6 for one in found)
    return Finding(
        family="collusion", attack="open another's upload with the shared key", source="this project's threat model",
        adversary="collusion", method=label, encrypted=True,
        setting={"batch": stage.genesis.config.training.batch_size, "round": stage.update_rounds[0]},
        metric="correlation with the true update", found=mean_interval(values), blind=mean_interval(chances),
        gain=gain_interval(values, chances), success=_FIRM, trials=len(values), method_of_interval="Student's t over victims, paired with random numbers",
        more={"exact to the last digit sent": float(exact), "passes the opener's checks": float(np.mean([o.passes for o in found]))},
        note="Institutions share one key: who has it and an upload has the update." if exact else "",
    )  # fmt: skip
