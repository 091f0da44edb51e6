"""One round of a recorded run under attack: its victims, and their updates as the adversary has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dictpfl.common.law.pruning import Bools
from dictpfl.deploy.attacks.inversion import Target
from dictpfl.deploy.attacks.methods import Subject
from dictpfl.deploy.attacks.observations import Observation, in_clear, in_collusion
from dictpfl.deploy.attacks.recorded import RecordedRun, Victim


@dataclass(frozen=True)
class Case:
    """Recorded run of a method, and the round of it that is attacked.

    Attributes:
        recorded: the run.
        subject: method, and who attacks it.
        number: of the round.
        victims: institutions under attack.
    """

    recorded: RecordedRun
    subject: Subject
    number: int
    victims: Sequence[Victim]

    @classmethod
    def of(cls, recorded: RecordedRun, subject: Subject, most: int) -> Case:
        """Take the first or last update round of a run, and at most so many victims; a colluding institution is none."""
        number = recorded.update_rounds[-1 if subject.last else 0]
        victims = [v for v in recorded.victims(number) if subject.adversary != "collusion" or v.index != 0]
        return cls(recorded, subject, number, victims[:most])

    def alike(self) -> Case:
        """Keep the victims with the largest steps: one simulation serves all, and who has fewer samples than a batch takes another one."""
        sizes = [tuple(len(batch) for batch in victim.batches) for victim in self.victims]
        most = max(sizes, key=sum)
        return replace(self, victims=[v for v, size in zip(self.victims, sizes, strict=True) if size == most])

    def observation(self, victim: Victim) -> Observation:
        """Read a victim's update as the adversary has it.

        Raises:
            ConfigError: this adversary has ciphertexts only.
        """
        if self.subject.adversary == "collusion":
            return in_collusion(self.recorded.collusion, victim.seen)
        return in_clear(self.recorded.genesis, self.recorded.auditor.sums[self.number].plan, victim.seen)

    def target(self) -> Target:
        """Gather all victims' updates in the form that inversion takes."""
        matcher = self.recorded.matcher(self.number)
        observations = [self.observation(victim) for victim in self.victims]
        observed = [matcher.observed(o.update, v.weight) for o, v in zip(observations, self.victims, strict=True)]
        known = [torch.from_numpy(o.known[matcher.coordinates]) for o in observations]
        public = self.recorded.public.features
        return Target(
            torch.stack(observed), torch.stack(known), self._tensors(matcher.coordinates), len(self.victims[0].batches),
            max(map(len, self.victims[0].batches)), tuple(self.recorded.genesis.sample_shape),
            float(public.min()), float(public.max()), self.recorded.genesis.outputs,
        )  # fmt: skip

    def _tensors(self, coordinates: Bools) -> torch.Tensor:
        return torch.from_numpy(self.recorded.genesis.layout.tensor_of[coordinates].astype(np.int64))

    @property
    def setting(self) -> dict[str, int | float | str]:
        """Facts of the case that a reader must know."""
        config = self.recorded.genesis.config
        return {
            "batch": config.training.batch_size,
            "steps": len(self.victims[0].batches),
            "round": self.number,
            "model": config.model.source + (", pretrained" if config.model.pretrain.epochs else ""),
        }
