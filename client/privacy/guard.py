"""Guard of an institution's differential privacy: its account, its noise, and what its ledger may hold (`[privacy]`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from dictpfl.client.privacy.accounting import Release, Spending, extra_missing, noise_for
from dictpfl.client.privacy.chance import unpredictable
from dictpfl.client.training.task import require_single, task_of
from dictpfl.client.training.train import Trained
from dictpfl.common.arrays import Ints
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ModelError, PrivacyError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.noise import Draw, Noise, skellam
from dictpfl.common.protection import Privacy

_MOST_NOISE = 1e6
Trainer = Callable[..., Trained]
"""Function with the arguments of `dictpfl.client.training.train.train`."""


class Guard(Protocol):
    """Guard of one institution in one federation."""

    trainer: Trainer | None
    """Trainer to use; None: `dictpfl.client.training.train.train`."""
    draw: Draw | None
    """Source of noise for `dictpfl.common.law.round.seal_update`; None: no noise."""

    def charge(self, number: int) -> None:
        """Pay for an upload of round `number`, durably, before anything is computed from data.

        Raises:
            PrivacyError: the upload would spend more than is allowed; nothing is paid.
        """
        ...

    def confirm(self, number: int) -> None:
        """Pay for an upload that is in the sum of round `number`, if the account says that it was never made."""
        ...

    def said(self, ledger: Ledger) -> Ledger:
        """Return the ledger without the fields that must not be sent."""
        ...


class Unguarded:
    """Guard of a federation without differential privacy: it does nothing."""

    trainer: Trainer | None = None
    draw: Draw | None = None

    def __init__(self, *_arguments: Any) -> None: ...

    def charge(self, number: int) -> None:
        """Do nothing: there is nothing to pay."""

    def confirm(self, number: int) -> None:
        """Do nothing: there is nothing to pay."""

    def said(self, ledger: Ledger) -> Ledger:
        """Return the whole ledger."""
        return ledger


class _Accountable(ABC):
    """Guard with an account; subclasses say in `_release` what an upload costs."""

    trainer: Trainer | None = None
    draw: Draw | None = None
    _release: Release

    def __init__(self, genesis: Genesis, path: Path, samples: int) -> None:
        if find_spec("opacus") is None or find_spec("dp_accounting") is None:
            raise extra_missing()
        self._privacy, self._path = genesis.config.privacy, path
        self._prepare(genesis, samples)

    @abstractmethod
    def _prepare(self, genesis: Genesis, samples: int) -> None: ...

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
        """Return the ledger without losses and figures, which no noise covers, unless the federation wants them."""
        if self._privacy.figures:
            return ledger
        return replace(ledger, train_loss=0.0, measured=0, loss=0.0, metric=0.0, measures=())


class ExampleGuard(_Accountable):
    """Guard of each training sample: DP-SGD at the institution. Later use of its result costs nothing more."""

    def _prepare(self, genesis: Genesis, samples: int) -> None:
        from dictpfl.client.privacy.dpsgd import Sampling, train_privately

        privacy, config = self._privacy, genesis.config
        sampling = Sampling.of(samples, config.training)
        steps = sampling.steps * config.federation.rounds
        noise = privacy.noise_multiplier or noise_for(
            privacy.epsilon, privacy.delta, sampling.rate, steps, privacy.accountant
        )
        self._release = Release(noise, sampling.rate, sampling.steps)
        self.trainer = partial(train_privately, privacy=privacy, noise=noise)


class InstitutionGuard(_Accountable):
    """Guard of the institution as a whole: its ledger says only that it takes part; it adds a share of the sum's noise."""

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
    """Make the guard that a federation wants.

    Args:
        genesis: agreement of the federation.
        memory: the institution's memory file; the account lies beside it.
        samples: number of training samples.

    Raises:
        ConfigError: the extra `dp` is not installed.
        PrivacyError: no noise is enough for the wanted epsilon.
    """
    return _GUARDS[genesis.config.privacy.mechanism](genesis, account_of(memory), samples)


def account_of(memory: Path) -> Path:
    """Path of the account beside a memory file."""
    return memory.with_suffix(".privacy.json")


def release_of(noise: Noise, size: int) -> Release:
    """Release of one round for an institution as a whole, of a shared vector of `size` values, pruned or not."""
    return Release(noise.multiplier, l2=noise.sensitivity, l1=noise.l1(size))


def spent(config: FederationConfig, memory: Path) -> dict[str, Any] | None:
    """Summarise the account for an institution's status; None without differential privacy.

    Raises:
        ConfigError: the extra `dp` is not installed.
        MemoryFileError: the account cannot be read.
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
    """Fill in the noise that all institutions must agree on, where only epsilon is given; for genesis.

    Args:
        config: configuration of the federation.
        noise_of: makes the mechanism for a noise multiplier.
        size: number of values in the shared vector.

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
        config: configuration of the federation.
        twin: `dictpfl.client.model.twin.Twin` with the federation's settings; left in evaluation mode.

    Raises:
        ModelError: the mechanism does not cover this model or task.
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
        from dictpfl.client.privacy.persample import require_private, sampled

        require_single(task_of(config.measuring), 'privacy.mechanism = "example"')
        twin.train()
        try:
            require_private(twin.module)
            with sampled(twin.module):
                pass
        finally:
            twin.eval()
