"""Rounds of tallies, as algebra: an institution's integers into components, and their opened sums out of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError, VoidError
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.packing import pack, unpack
from dictpfl.common.law.round import Plan, Sealable
from dictpfl.common.law.state import Residual
from dictpfl.common.law.tally import Tally, require_within
from dictpfl.common.law.terms import Law


def seal_tally(law: Law, plan: Plan, integers: Ints, ledger: Ledger) -> Sealable:
    """Pack an institution's integers.

    Args:
        law: agreement.
        plan: plan of a round with a tally that is kept.
        integers: at most `plan.tally.largest` in magnitude, int64, shape (plan.tally.layout.size,).
        ledger: report for the head of the upload; it has no range codes here.

    Returns:
        Components (ledger first); no residual, since what a tally leaves is owed to nobody.

    Raises:
        RoundError: another plan, shape or dtype, or an integer beyond what the tally says; nothing is sealed.
    """
    tally = plan.tally
    if tally is None or tally.decides:
        raise RoundError(f"round {plan.round} carries no tally whose sum is kept; nothing is sealed")
    if integers.dtype != np.int64 or integers.shape != (tally.layout.size,):
        raise RoundError(
            f"tally {tally.name!r} wants int64 of shape ({tally.layout.size},), found {integers.dtype} of {integers.shape}; nothing is sealed"
        )
    if max(int(integers.max()), -int(integers.min())) > tally.largest:
        raise RoundError(
            f"tally {tally.name!r} holds integers up to {tally.largest}, found {integers.min()} to {integers.max()}; clip them, or raise the "
            "bound of its source. Nothing is sealed"
        )
    head = law.ledger.write(replace(ledger, codes=np.zeros(len(law.layout.entries), dtype=np.int64)))
    packed = pack(integers, plan.sealed.digits)
    return Sealable(np.concatenate([head, packed]), np.zeros(0, dtype=np.int64), Residual.none(0))


def tallied(law: Law, plan: Plan, tally: Tally, components: Ints) -> Ints:
    """Unpack the sums behind the ledger: int64, shape (tally.layout.size,).

    Raises:
        VoidError: another number of components than the plan has, or sums that no institutions following the protocol can have made.
    """
    needed = plan.sealed.digits.components(tally.layout.size)
    part = components[law.ledger.size :]
    if part.size < needed or part[needed:].any():
        raise VoidError(
            f"expected {needed} components and zeros behind them, found {part.size}; the sum is of another round or plan"
        )
    sums = unpack(part[:needed], tally.layout.size, plan.sealed.digits)
    require_within(tally, sums, law.ledger.read(components).participants)
    return sums
