"""One institution's classes from what it seals where row thresholds are learnt: its tally of loud inputs, and its first update.

Both are nearly means over samples. So the attacker makes what it would see of each class from public samples of its own, by the agreed
training from the state that everybody has, and looks for the mixture of these that comes nearest to what it saw: shares that are not negative
and add up to one, by least squares (share of a class, as in Melis et al. 2019). It is judged as tallies of classes are
(`dictpfl.deploy.attacks.published.tallies`): likeness of the mixture found to the true one, beside that of the public samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.client.tallies.activations import Activations
from dictpfl.client.training.tally import Own, Subject
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import train
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.settings import ACTIVATIONS
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.published.tallies import Guess, counts_of, likeness
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Adversary, Family, Finding

Array = NDArray[np.float64]
INPUTS, THRESHOLDS = "tally of inputs", "thresholds"
SUCCESS = 0.9
"""Likeness from which on an institution's classes count as known."""
DRAWS = 3
"""Trainings of the attacker's for each class, whose mean it takes."""
_ONE = 1e3
"""Weight of the demand that shares add up to one, beside columns of length one."""


def federation(config: FederationConfig, institutions: int, *, masks: bool) -> FederationConfig:
    """Configure a federation of different institutions that tallies its inputs and learns thresholds for one round."""
    settings = {
        "toy_insecure": False, "method": "dictpfl",
        "federation.participants": institutions, "federation.max_participants": 0, "federation.sample": 0,
        "federation.min_participants": 3, "federation.rounds": 1,
        "data.partition": "dirichlet", "data.alpha": 0.3,
        "encryption.sealer": "ckks", "encryption.sealed_share": 1.0, "encryption.rescore_every": 0,
        "decomposition.dense": [], "decomposition.local": [], "decomposition.frozen": [], "decomposition.last_layers": 0,
        "decomposition.batch_norm": "frozen", "pruning.enabled": False, "scores.decision": "", "narrow.axes": [],
        "privacy.mechanism": "none", "defences.masks": masks,
        "tallies.opening": [ACTIVATIONS], "tallies.closing": [], "tallies.options": {},
        "sparsity.method": "lua", "sparsity.target": 0.6,
        "training.optimizer": "adamw", "training.learning_rate": 1e-2, "training.steps": 4, "training.batch_size": 32,
    }  # fmt: skip
    return FederationConfig.of(config.model_dump(mode="json"), settings)


def mixture(seen: Array, classes: Array) -> Array:
    """Find shares of classes whose mixture is nearest to what was seen.

    Args:
        seen: (values,).
        classes: what each class alone would give, (classes, values).

    Returns:
        Shares, float64, none negative, (classes,); zeros where nothing was seen.
    """
    scale = float(np.linalg.norm(classes, axis=1).mean())
    if not scale or not seen.any():
        return np.zeros(len(classes))
    # The demand is a row of its own, so heavy that shares add up to one as far as floats tell.
    left = np.vstack([classes.T / scale, np.full((1, len(classes)), _ONE)])
    found: Array = nnls(left, np.append(seen / scale, _ONE))[0]
    return found


class Attacker:
    """Maker of what each class alone would give, of public samples, at the states that a run's rounds began from.

    Args:
        recorded: run of `federation`.
        seed: of the attacker's own trainings.
    """

    def __init__(self, recorded: RecordedRun, seed: int = 0) -> None:
        self._recorded, self._seed = recorded, seed
        genesis, public = recorded.genesis, recorded.public
        self._bench = Workbench(genesis, recorded.home(0) / GENESIS_WEIGHTS)
        self._task = task_of(genesis.config.training)
        self._parts = [public.take(np.flatnonzero(public.labels == c)) for c in range(genesis.outputs)]

    def tallied(self, number: int) -> Array:
        """Make the tally of inputs that each class would seal, (classes, values)."""
        genesis = self._recorded.genesis
        twin = self._bench.twin_at(self._recorded.auditor.sums[number].before, {})
        subject = Subject(twin, genesis.config, genesis.outputs, genesis.sample_shape)
        (tally,) = genesis.tallies
        return np.stack([
            Activations().local(subject, Own(part, part, self._task, self._recorded.home(0)), tally) if len(part)
            else np.zeros(tally.layout.size)
            for part in self._parts
        ])  # fmt: skip

    def trained(self, number: int) -> Array:
        """Train the thresholds on each class, and give how far they moved, (classes, values)."""
        return np.stack([self._moved(number, part) for part in self._parts])

    def _moved(self, number: int, samples: Samples) -> Array:
        genesis, state = self._recorded.genesis, self._recorded.auditor.sums[number].before
        total = np.zeros(genesis.layout.size)
        for draw in range(DRAWS if len(samples) else 0):
            twin = self._bench.twin_at(state, {})
            before = twin.read()
            train(twin, samples, genesis.config.training, self._task, seed=self._seed * DRAWS + draw)
            total += (twin.read() - before) / DRAWS
        return total


def guesses(recorded: RecordedRun, seed: int = 0) -> Mapping[tuple[str, str], Guess]:
    """Let each adversary guess, by what it looks at (inputs, thresholds) and what it has (an upload; without masks also a sum)."""
    attacker, genesis = Attacker(recorded, seed), recorded.genesis
    truth, public = counts_of(recorded), np.bincount(recorded.public.labels, minlength=genesis.outputs)
    blind = np.array([likeness(public.astype(np.float64), own) for own in truth[1:]])
    tallied = next(n for n, opened in recorded.auditor.sums.items() if opened.plan.kind is RoundKind.SCORE)
    weights = [genesis.law.weight(int(own.sum())) for own in truth]
    found: dict[tuple[str, str], Guess] = {}
    for what, number in ((INPUTS, tallied), (THRESHOLDS, recorded.update_rounds[0])):
        classes = attacker.tallied(number) if what == INPUTS else attacker.trained(number)
        uploads = [_read(recorded, number, index) for index in range(len(truth))]
        alone = [mixture(seen / weight, classes) for seen, weight in zip(uploads, weights, strict=True)]
        found[what, "upload"] = _guess(alone[1:], truth, blind)
        if (
            not genesis.config.defences.masks
        ):  # they change nothing of a sum, and here one's own part is read from its upload
            others = recorded.auditor.sums[number].total - uploads[0]
            together = mixture(others / sum(weights[1:]), classes)
            found[what, "sum"] = _guess([together] * (len(truth) - 1), truth, blind)
    return found


def _guess(shares: Sequence[Array], truth: Array, blind: Array) -> Guess:
    return Guess(np.array([likeness(one, own) for one, own in zip(shares, truth[1:], strict=True)]), blind)


def _read(recorded: RecordedRun, number: int, index: int) -> Array:
    """Open an institution's upload as coordinator and institution 0; zeros where it does not open."""
    victim = next(victim for victim in recorded.victims(number) if victim.index == index)
    try:
        values, _ = recorded.collusion.open(victim.seen)
    except DictPFLError:
        return np.zeros(recorded.auditor.sums[number].total.size)
    return values


_KINDS: Mapping[str, tuple[str, Adversary, Family]] = {
    "sum": ("classes of each from the others' sum of {}", "institution", "aggregate"),
    "upload": ("classes from another's {}, opened with the shared key", "collusion", "collusion"),
}


def threshold_findings(recorded: RecordedRun, seed: int = 0) -> Iterator[Finding]:
    """Judge what each adversary guessed in a run of `federation`."""
    masks = recorded.genesis.config.defences.masks
    training = recorded.genesis.config.training
    setting: dict[str, int | float | str] = {
        "institutions": recorded.genesis.config.federation.participants,
        "batch": training.batch_size,
        "steps": training.steps,
    }
    for (what, having), guess in guesses(recorded, seed).items():
        attack, adversary, family = _KINDS[having]
        yield Finding(
            family=family, attack=attack.format(what), source="share of a class, as in Melis et al. 2019", adversary=adversary,
            method="thresholds, masks" if masks else "thresholds", encrypted=True, setting=setting,
            metric="likeness of classes", found=mean_interval(guess.found), blind=mean_interval(guess.blind),
            gain=gain_interval(guess.found, guess.blind), success=SUCCESS, trials=len(guess.found),
            method_of_interval="Student's t over institutions, paired with public classes", needs="sparsity",
        )  # fmt: skip


@ATTACKS.register("thresholds")
class ThresholdAttack(FederationAttack):
    """Classes of single institutions where row thresholds are learnt, with and without masks.

    Attributes:
        institutions: size of the federation.
    """

    institutions: ClassVar[int] = 6

    def run(self, config: FederationConfig, folder: Path, tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for masks in (False, True):
            made = federation(config, self.institutions, masks=masks)
            yield from threshold_findings(play(made, folder / ("masks" if masks else "plain")), tools.seed)
