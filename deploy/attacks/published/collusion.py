"""Coordinator and one institution together against another: the limit of a key that all institutions share.

The coordinator has the victim's upload, the institution has the key. Called on any recorded run, with whatever defences
it has: an upload that is masked besides does not pass the opener's checks, so the attacker leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dictpfl.client.folder import GENESIS_WEIGHTS, InstitutionSettings
from dictpfl.client.training.speed import rate
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import train
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import GUARDS
from dictpfl.common.ckks.polynomials import rounded
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.genesis import components
from dictpfl.common.law.finishing import carried
from dictpfl.common.law.seeds import small_seed
from dictpfl.common.law.state import Floats
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import UPLOAD, Blob
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.recorded import RecordedRun, Victim, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding
from dictpfl.deploy.attacks.views import CollusionView, SeenUpload

_FIRM = 0.99
"""Correlation from which on an update counts as opened; what is sent is rounded, so that 1 is not reached."""


@dataclass(frozen=True)
class Pried:
    """Outcome of prying one upload open.

    Attributes:
        victim: number of the institution.
        passes: the opener's own checks found nothing wrong.
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
    """Open an upload without asking if the result can be trusted: w * values, float64, shape (size,)."""
    genesis, opener = view.institution.keys.at(seen.round)
    plan = view.institution.sums[seen.round].plan
    parsed = Blob.parse(seen.blob, genesis.limits, direction=UPLOAD, kind=plan.kind, round=plan.round)
    words, seeds, bits = (
        parsed.words()[:-TAGS],
        [entry.seed for entry in parsed.entries],
        genesis.parameters.payload_bits,
    )
    needed = components(genesis, plan)
    if isinstance(opener, CKKSOpener):
        # An attacker does not stop at a guard that is not zero.
        noisy = np.concatenate([part[:-GUARDS] for part in opener._noisy(words, seeds, needed)])  # noqa: SLF001
        half = 1 << (bits - 1)
        opened = (rounded(noisy, genesis.parameters.scale_bits) + half) % (1 << bits) - half
    else:
        opened = opener.open(words, seeds, needed)
    clear = np.frombuffer(parsed.clear, dtype="<i4").astype(np.int64)
    behind = genesis.law.ledger.size + plan.components()
    opened[behind:] = 0  # padding, which would be checked
    return carried(genesis.law, plan, opened, clear)


def true_update(recorded: RecordedRun, victim: Victim) -> Floats:
    """Train again as the victim did in its first update round: w * (local - x).

    Later rounds carry a residual besides, which nobody else knows.
    """
    number, institution, genesis = victim.seen.round, recorded.home(victim.index), recorded.genesis
    view = recorded.institution(victim.index)
    state = view.sums[number].before
    twin = Workbench(genesis, institution / GENESIS_WEIGHTS).twin_at(state, {})
    before, training = twin.read(), genesis.config.measuring
    seed = small_seed(genesis.secret_seed, "training", InstitutionSettings.load(institution).name, number)
    factor = rate(training, state.updates, genesis.config.federation.rounds)
    sent = view.sums[number].plan.mask if genesis.law.pruning.pruned == "freeze" else None
    train(twin, view.train, training, task_of(training), seed=seed, sent=sent, rate=factor)
    return victim.weight * (twin.read() - before)


def collusion_attack(recorded: RecordedRun, number: int | None = None) -> Sequence[Pried]:
    """Open the uploads of all others in a round, as coordinator and institution 0 (default: the first update round)."""
    number = recorded.update_rounds[0] if number is None else number
    plan = recorded.collusion.institution.sums[number].plan
    outcomes = []
    for victim in recorded.victims(number):
        if victim.index == 0:
            continue
        try:
            recorded.collusion.open(victim.seen)
            passes = True
        except DictPFLError:
            passes = False
        pried, truth = pry(recorded.collusion, victim.seen), true_update(recorded, victim)
        apart = np.abs(pried - truth)[plan.sealed.index] / plan.sealed.steps
        correlation = np.corrcoef(pried[plan.mask], truth[plan.mask])[0, 1]
        numbers = np.random.default_rng(victim.index).normal(size=int(plan.mask.sum()))
        chance = abs(float(np.corrcoef(numbers, truth[plan.mask])[0, 1]))
        outcomes.append(Pried(victim.index, passes, float(np.nan_to_num(correlation)), chance, float(apart.max())))
    return outcomes


def collusion_finding(recorded: RecordedRun, label: str) -> Finding:
    """Judge the attack; success is an update opened whole."""
    outcomes = collusion_attack(recorded)
    values = [abs(one.correlation) for one in outcomes]
    chances = [one.chance for one in outcomes]
    exact = all(one.largest <= 0.5 + 1e-6 for one in outcomes)
    attack, note = "open another's upload with the shared key", ""
    if exact:
        note = "Institutions share one key: who has it and an upload has the update."
    elif recorded.genesis.config.privacy.mechanism != "none":
        # What was sent opens all the same; what it is compared with is an update without noise.
        attack = "another's update, without its noise, from an upload opened with the shared key"
        if all(one.passes for one in outcomes):
            note = "The upload itself opens. It holds noise of differential privacy, and is compared with an update without."
    return Finding(
        family="collusion", attack=attack, source="this project's threat model",
        adversary="collusion", method=label, encrypted=True,
        setting={"batch": recorded.genesis.config.training.batch_size, "round": recorded.update_rounds[0]},
        metric="correlation with the true update", found=mean_interval(values), blind=mean_interval(chances),
        gain=gain_interval(values, chances), success=_FIRM, trials=len(values), method_of_interval="Student's t over victims, paired with random numbers",
        more={"exact to the last digit sent": float(exact), "passes the opener's checks": float(np.mean([o.passes for o in outcomes]))},
        note=note,
    )  # fmt: skip


@ATTACKS.register("collusion")
class Collusion(FederationAttack):
    """Opening of another's upload by the coordinator and one institution."""

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        yield collusion_finding(play(config, folder / "run"), "dictpfl, masks" if config.defences.masks else "dictpfl")
