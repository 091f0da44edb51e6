"""Account of an institution's differential privacy: a file of releases, and their epsilon by libraries' accountants.

The file is written before anything is computed from data, so that an interrupted round has been paid for. It is
separate from the memory file, which may be removed to catch up by replay. Restoring an old copy of it forgets what
was spent.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from dictpfl.common.documents import parse_document
from dictpfl.common.errors import ConfigError, MemoryFileError, PrivacyError
from dictpfl.common.files import write_private

_FORMAT = "dictpfl-privacy-1"
_ORDERS = [*range(2, 65), 80, 96, 128, 192, 256, 512, 1024]
"""Orders at which the institution's mechanism is accounted; its bound holds for whole numbers."""


@dataclass(frozen=True)
class Release:
    """Releases of one kind, one after the other.

    Attributes:
        noise: standard deviation of the noise, divided by the L2 sensitivity.
        rate: probability with which a sample is in a step; 1 for an institution as a whole.
        steps: number of releases.
        l2: L2 sensitivity in steps of the grid; 0 where noise is Gaussian.
        l1: L1 sensitivity in steps of the grid; 0 where noise is Gaussian.
    """

    noise: float
    rate: float = 1.0
    steps: int = 1
    l2: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no release is: of a noise that is no number epsilon is none, and within any limit.

        Raises:
            ValueError: a field of another type or out of its range.
        """
        numbers = (self.noise, self.rate, self.l2, self.l1)
        good = (
            all(isinstance(one, int | float) and 0.0 <= one < math.inf for one in numbers) and type(self.steps) is int
        )
        if not good or not self.noise or not 0.0 < self.rate <= 1.0 or self.steps < 1:
            raise ValueError(f"no release: {self}")


@dataclass(frozen=True)
class Spending:
    """Account of everything released so far.

    Attributes:
        releases: releases in order.
        last: latest round that was paid for; -1: none.
    """

    releases: tuple[Release, ...] = ()
    last: int = -1

    def after(self, release: Release, number: int) -> Spending:
        """Add a release for round `number`; neighbours of one kind are counted together."""
        earlier = self.releases
        if earlier and replace(earlier[-1], steps=release.steps) == release:
            earlier, release = earlier[:-1], replace(release, steps=earlier[-1].steps + release.steps)
        return Spending((*earlier, release), max(self.last, number))

    def epsilon(self, delta: float, accountant: Literal["rdp", "prv"] = "rdp") -> float:
        """Compute epsilon of all releases together.

        Raises:
            ConfigError: the extra `dp` is not installed.
        """
        if not self.releases:
            return 0.0
        if self.releases[0].l2:
            return _skellam_epsilon(self.releases, delta)
        history = [(r.noise, r.rate, r.steps) for r in self.releases]
        return _gaussian_epsilon(history, delta, accountant)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the account; nothing is spent where there is no file.

        Raises:
            MemoryFileError: the file cannot be read; the amount spent is then unknown.
        """
        try:
            document = parse_document(path.read_bytes(), _FORMAT, path, MemoryFileError)
            return cls(tuple(Release(**one) for one in document["releases"]), int(document["last"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemoryFileError(
                f"{path} is damaged ({error}), and it says how much privacy was spent. Restore it from backup; without one, "
                "count every round so far as spent"
            ) from error

    def store(self, path: Path) -> None:
        """Replace the file, durably.

        Raises:
            MemoryFileError: the disk refuses; the old file is still whole.
        """
        document = {"format": _FORMAT, "releases": [asdict(one) for one in self.releases], "last": self.last}
        try:
            write_private(path, (json.dumps(document, indent=1) + "\n").encode())
        except OSError as error:
            raise MemoryFileError(f"cannot write {path}: {error}; nothing was computed from data") from error


def noise_for(epsilon: float, delta: float, rate: float, steps: int, accountant: Literal["rdp", "prv"]) -> float:
    """Search the least noise multiplier with which so many steps of DP-SGD stay within epsilon (Opacus' search).

    Raises:
        PrivacyError: no noise is enough.
    """
    try:
        with _quiet() as opacus:
            return float(
                opacus.get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant=accountant
                )
            )
    except ValueError as error:
        raise PrivacyError(
            f"privacy.epsilon {epsilon:g} at delta {delta:g} cannot be had in {steps} steps ({error}); raise it, or lower "
            "federation.rounds, training.epochs or training.batch_size"
        ) from error


@contextmanager
def _quiet() -> Iterator[Any]:
    """Import Opacus' accountants, without the warning that more orders would make epsilon a little smaller."""
    try:
        from opacus.accountants import utils
    except ImportError as error:
        raise extra_missing() from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield utils


def _gaussian_epsilon(
    history: list[tuple[float, float, int]], delta: float, accountant: Literal["rdp", "prv"]
) -> float:
    with _quiet() as opacus:
        kept = opacus.create_accountant(mechanism=accountant)
        kept.history = history
        return float(kept.get_epsilon(delta=delta))


def skellam_divergence(order: int, noise: float, l2: float, l1: float) -> float:
    """Bound the Renyi divergence of order `order` between sums that differ by one institution.

    Agarwal, Kairouz and Liu, "The Skellam Mechanism for Differentially Private Federated Learning" (2021), corollary
    3.6.

    Args:
        order: a whole number above 1.
        noise: standard deviation of the noise, divided by `l2`.
        l2: L2 sensitivity in steps of the grid.
        l1: L1 sensitivity in steps of the grid.
    """
    variance = (noise * l2) ** 2
    beyond = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order / (2 * noise**2) + min(beyond, 3 * l1 / (2 * variance))


def _skellam_epsilon(releases: Sequence[Release], delta: float) -> float:
    try:
        from dp_accounting.rdp import compute_epsilon
    except ImportError as error:
        raise extra_missing() from error
    spent = [sum(r.steps * skellam_divergence(order, r.noise, r.l2, r.l1) for r in releases) for order in _ORDERS]
    return float(compute_epsilon(_ORDERS, spent, delta)[0])


def extra_missing() -> ConfigError:
    """Make the error for a missing extra `dp`."""
    return ConfigError("differential privacy needs Opacus and dp-accounting: pip install 'dictpfl[dp]'")
