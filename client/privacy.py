"""What stands between an institution's data and what it sends: accounts, noise, and what a ledger may say (`[privacy]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from client.accounting import Release, Spending, extra_missing, noise_for
from client.chance import unpredictable
from client.training import Trained
from common.config import FederationConfig
from common.errors import ModelError, PrivacyError
from common.genesis import Genesis
from common.layout import Kind
from common.ledger import Ledger
from common.noise import Draw, Noise, skellam
from common.packing import Ints
from common.settings import Privacy

_MOST_NOISE = 1e6
Trainer = Callable[..., Trained]
"""`client.training.train`, or what takes its place and its arguments."""


class Guard(Protocol):
    """Of one institution in one federation."""

    trainer: Trainer | None
    """In place of `client.training.train`; None: that."""
    draw: Draw | None
    """Noise for `common.round.seal_update`; None: none is wanted."""

    def charge(self, number: int) -> None:
        """Pay for an upload of round `number`, durably, before anything is computed from data.

        Raises:
            PrivacyError: it would spend more than is allowed; nothing is paid.
        """
        ...

    def confirm(self, number: int) -> None:
        """An upload of this institution is in the sum of round `number`: pay for it, if the file says it was never made."""
        ...

    def said(self, ledger: Ledger) -> Ledger:
        """What of a ledger may be sent."""
        ...


class Unguarded:
    """No differential privacy."""

    trainer: Trainer | None = None
    draw: Draw | None = None

    def __init__(self, *_arguments: Any) -> None: ...

    def charge(self, number: int) -> None:
        """Nothing to pay."""

    def confirm(self, number: int) -> None:
        """Nothing to pay."""

    def said(self, ledger: Ledger) -> Ledger:
        """All of it."""
        return ledger


class _Accountable:
    """Keeps the account; what it pays for is said by `_release`."""

    trainer: Trainer | None = None
    draw: Draw | None = None
    _release: Release

    def __init__(self, genesis: Genesis, path: Path, samples: int) -> None:
        if find_spec("opacus") is None or find_spec("dp_accounting") is None:
            raise extra_missing()
        self._privacy, self._path = genesis.config.privacy, path
        self._prepare(genesis, samples)

    def _prepare(self, genesis: Genesis, samples: int) -> None:
        raise NotImplementedError

    def charge(self, number: int) -> None:
        """See `Guard`."""
        after, limit = Spending.load(self._path).after(self._release, number), self._privacy.epsilon
        if limit and (epsilon := after.epsilon(self._privacy.delta, self._privacy.accountant)) > limit:
            raise PrivacyError(
                f"an upload of round {number} would bring this institution to epsilon = {epsilon:.3f} at delta = "
                f"{self._privacy.delta:g}, privacy.epsilon allows {limit:g}; rounds that were interrupted count. It takes no "
                "further part, and can go on applying sums"
            )
        after.store(self._path)

    def confirm(self, number: int) -> None:
        """See `Guard`."""
        spending = Spending.load(self._path)
        if number > spending.last:
            spending.after(self._release, number).store(self._path)

    def said(self, ledger: Ledger) -> Ledger:
        """Without losses and figures, which no noise covers, unless the federation wants them."""
        if self._privacy.figures:
            return ledger
        return replace(ledger, train_loss=0.0, measured=0, loss=0.0, metric=0.0)


class ExampleGuard(_Accountable):
    """Each training sample: DP-SGD at home. What follows from its result costs nothing more."""

    def _prepare(self, genesis: Genesis, samples: int) -> None:
        from client.dpsgd import Sampling, train_privately

        privacy, config = self._privacy, genesis.config
        sampling = Sampling.of(samples, config.training)
        steps = sampling.steps * config.federation.rounds
        noise = privacy.noise_multiplier or noise_for(
            privacy.epsilon, privacy.delta, sampling.rate, steps, privacy.accountant
        )
        self._release = Release(noise, sampling.rate, sampling.steps)
        self.trainer = partial(train_privately, privacy=privacy, noise=noise)


class InstitutionGuard(_Accountable):
    """The institution as a whole: its ledger says only that it takes part, its noise is a share of the sum's."""

    def _prepare(self, genesis: Genesis, _samples: int) -> None:
        noise = genesis.law.noise
        assert noise is not None  # noqa: S101 -- the same setting decides on both
        self._release = release_of(noise, genesis.layout.size)
        self.draw = partial(_drawn, noise.share)


def _drawn(variance: float, count: int) -> Ints:
    return skellam(unpredictable(), variance, count)


_GUARDS: Mapping[str, Callable[[Genesis, Path, int], Guard]] = {
    "none": Unguarded,
    "example": ExampleGuard,
    "institution": InstitutionGuard,
}


def guard_of(genesis: Genesis, memory: Path, samples: int) -> Guard:
    """The guard that a federation wants.

    Args:
        memory: the institution's memory file; the account lies beside it. `samples`: for training.

    Raises:
        ConfigError: the extra `dp` is not installed, or no noise is enough for the wanted epsilon.
    """
    return _GUARDS[genesis.config.privacy.mechanism](genesis, account_of(memory), samples)


def account_of(memory: Path) -> Path:
    """The account's file beside a memory file."""
    return memory.with_suffix(".privacy.json")


def release_of(noise: Noise, size: int) -> Release:
    """What one round releases of an institution as a whole; of a shared vector of `size` values, pruned or not."""
    return Release(noise.multiplier, l2=noise.sensitivity, l1=noise.l1(size))


def spent(config: FederationConfig, memory: Path) -> dict[str, Any] | None:
    """What an institution's status says; None without differential privacy.

    Raises:
        ConfigError, MemoryFileError: see `Spending`.
    """
    privacy = config.privacy
    if privacy.mechanism == "none":
        return None
    spending = Spending.load(account_of(memory))
    return {
        "mechanism": privacy.mechanism,
        "epsilon": spending.epsilon(privacy.delta, privacy.accountant),
        "delta": privacy.delta,
        "limit": privacy.epsilon or None,
        "steps": sum(release.steps for release in spending.releases),
    }


def noise_filled_in(config: FederationConfig, noise_of: Callable[[float], Noise], size: int) -> Privacy:
    """The section with the noise that all institutions must agree on, where only epsilon is wanted; for genesis.

    Args:
        noise_of: the mechanism for a multiplier. `size`: of the shared vector.

    Raises:
        ConfigError: the extra `dp` is not installed.
        PrivacyError: no noise is enough.
    """
    privacy = config.privacy
    if privacy.mechanism != "institution" or privacy.noise_multiplier:
        return privacy

    def epsilon(multiplier: float) -> float:
        release = replace(release_of(noise_of(multiplier), size), steps=config.federation.rounds)
        return Spending((release,)).epsilon(privacy.delta)

    low, high = 0.0, 1.0
    while epsilon(high) > privacy.epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise PrivacyError(
                f"privacy.epsilon {privacy.epsilon:g} at delta {privacy.delta:g} cannot be had in {config.federation.rounds} "
                "rounds; raise it, or lower federation.rounds"
            )
    while high - low > high / 1000:
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon(middle) > privacy.epsilon else (low, middle)
    return privacy.model_copy(update={"noise_multiplier": high})


def require_privatable(config: FederationConfig, twin: Any) -> None:
    """Refuse a model that the wanted mechanism cannot cover, before round 1.

    Args:
        twin: `client.twin.Twin` with the federation's settings; left in evaluation mode.

    Raises:
        ModelError: so.
        ConfigError: the extra `dp` is not installed.
    """
    mechanism = config.privacy.mechanism
    if mechanism == "none":
        return
    if find_spec("opacus") is None:
        raise extra_missing()
    if mechanism == "institution" and any(entry.kind is Kind.STATISTIC for entry in twin.layout.entries):
        raise ModelError(
            "running statistics of BatchNorm would be clipped and covered with noise together with the weights: set "
            'decomposition.batch_norm to "local" or "frozen", or use GroupNorm (model.options.norm = "group" for cnn)'
        )
    if mechanism == "example":
        from client.persample import require_private, sampled

        twin.train()
        try:
            require_private(twin.module)
            with sampled(twin.module):
                pass
        finally:
            twin.eval()
