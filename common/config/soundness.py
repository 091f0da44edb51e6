"""Checks of a whole configuration: what contradicts itself, has no effect, or protects nobody without saying so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dictpfl.common.config.choices import require_read
from dictpfl.common.config.models import (
    require_allottable,
    require_narrowable,
    require_precise,
    require_readable,
    require_reducible,
    require_sparse,
    require_teachable,
)
from dictpfl.common.config.refusing import refuse_first
from dictpfl.common.config.sections import Sections
from dictpfl.common.errors import ConfigError, ParameterError
from dictpfl.common.rounds import CLEAR_LEAST, Budget
from dictpfl.common.settings import Preprocessing, Section

_MOST = 2**31 - 1
"""Largest whole number of a setting: products of two still fit into the 64 bits that torch and numpy count with."""
_BOUNDED = ("seed", "federation.sample_cap")
"""Keys with larger bounds of their own: what a draw takes, and what the ledger counts."""
_FORETELLING = ("causal-lm", "sequence-to-sequence")
"""Tasks of which each output foretells the token behind its place."""
_OF_FORETOLD = ("perplexity", "sequence-accuracy", "token-accuracy")
"""Metrics that compare an output with the token behind its place."""
_OF_PLACES = ("accuracy", "auroc", "calibration", "class-distance", "confusion", "kappa", "tag-accuracy")
"""Metrics that compare it with the label of its own place."""


def require_sound(config: Sections, origin: str = "configuration") -> None:
    """Refuse what contradicts itself or protects nobody without saying so."""
    least, most = config.federation.min_participants, config.capacity
    _require_countable(config, origin)
    _require_kept(config, origin)
    _require_samplable(config, origin)
    if config.federation.participants > most and not config.federation.sample:
        raise ConfigError(
            f"{origin}: federation.participants is {config.federation.participants} but max_participants is {most}; "
            "raise max_participants"
        )
    if least > config.federation.participants:
        raise ConfigError(
            f"{origin}: federation.min_participants is {least} but only {config.federation.participants} take part; "
            "no round could ever close"
        )
    d = config.decomposition
    if d.refresh_when != "fixed" and not d.refresh_every:
        raise ConfigError(
            f"{origin}: decomposition.refresh_when is {d.refresh_when!r}, but refresh_every is 0; set the fewest rounds "
            "between two refreshes there"
        )
    if d.enabled and d.basis == "gradient" and not config.data.public_share:
        raise ConfigError(
            f'{origin}: decomposition.basis is "gradient", but there are no public samples to take gradients over; set '
            "data.public_share above 0"
        )
    if max(d.refresh_ranks, default=0) > d.rank:
        raise ConfigError(
            f"{origin}: decomposition.refresh_ranks goes up to {max(d.refresh_ranks)}, tables have rank {d.rank}; raise "
            "decomposition.rank, which costs nothing for rows that are not in use"
        )
    if config.selection.patience and (config.selection.by == "none" or config.data.validation_share == 0.0):
        raise ConfigError(
            f"{origin}: selection.patience is {config.selection.patience}, but nothing is measured to stop by; set "
            "selection.by to `metric` or `loss` and data.validation_share above 0"
        )
    _require_divisible(config, origin)
    _require_used(config, origin)
    _require_maskable(config, origin)
    _require_tallied(config, origin)
    _require_prepared(config, origin)
    require_allottable(config, origin)
    _require_measured(config, origin)
    _require_aligned(config, origin)
    require_narrowable(config, origin)
    require_sparse(config, origin)
    require_teachable(config, origin)
    require_reducible(config, origin)
    require_readable(config, origin)
    require_precise(config.training, config.sparsity.method, origin)
    _require_spendable(config, origin)
    if config.privacy.mechanism != "none":
        _require_private(config, origin)
    if not config.toy_insecure and config.insecurities:
        raise ParameterError(
            f"{origin}: {'; '.join(config.insecurities)}. Change it, or set toy_insecure = true to admit it",
            code="insecure",
        )


def _require_countable(config: Sections, origin: str) -> None:
    for key, value in _said(config):
        numbers = value if isinstance(value, list | tuple) else [value]
        if key not in _BOUNDED and any(isinstance(number, int) and abs(number) > _MOST for number in numbers):
            raise ConfigError(f"{origin}: {key}: expected at most {_MOST}, found a larger number")


def _require_kept(config: Sections, origin: str) -> None:
    """Refuse in free tables what JSON does not hold: institutions would read null in place of NaN, and text in place of a date."""
    for key, value in _said(config):
        if isinstance(value, dict):
            try:
                json.dumps(value, allow_nan=False, default=_checked)
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{origin}: {key}: expected finite numbers, words, lists and tables, found {value!r}"
                ) from error


def _said(section: Section, before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names, sections within sections taken apart."""
    for name, value in section:
        if isinstance(value, Section):
            yield from _said(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _checked(value: object) -> None:
    """Stand for a section in a table, which has been checked."""
    if not isinstance(value, Section):
        raise TypeError


def _require_divisible(config: Sections, origin: str) -> None:
    data = config.data
    if data.test_path and data.split_column:
        raise ConfigError(
            f"{origin}: data.test_path and data.split_column both say which samples are for the test; set one of them"
        )
    named = {data.label, data.column, data.split_column} - {""}
    if twice := sorted(
        {name for name in data.features if name in data.exclude or name in named or data.features.count(name) > 1}
    ):
        raise ConfigError(
            f"{origin}: data.features has {', '.join(twice)}, which is there twice, excluded, or the column of labels, institutions or "
            "splits; name each feature once"
        )
    if data.split_column and data.split_column in (data.label, data.column):
        raise ConfigError(
            f"{origin}: data.split_column is {data.split_column!r}, which is the column of the labels or of the institutions; "
            "name a column that holds train, validation or test"
        )


def _require_used(config: Sections, origin: str) -> None:
    """Refuse what would have no effect."""
    if config.scores.decision and config.decision != config.scores.decision:
        raise ConfigError(
            f"{origin}: scores.decision is {config.scores.decision!r}, but encryption.sealed_share = "
            f'{config.encryption.sealed_share:g} decides by scores itself; set encryption.sensitivity = "magnitude", or '
            "sealed_share = 1"
        )
    d = config.decomposition
    if d.refresh_ranks and not d.refresh_every:
        raise ConfigError(
            f"{origin}: decomposition.refresh_ranks is {d.refresh_ranks}, but refresh_every is 0, so that no refresh ever sets ranks; set "
            "the rounds between two refreshes there"
        )
    if config.data.sizes == "equal" and config.data.partition not in ("iid", "dirichlet"):
        raise ConfigError(
            f'{origin}: data.sizes is "equal", but data.partition {config.data.partition!r} decides sizes itself; '
            "set data.partition to `dirichlet` or `iid`, or data.sizes to `drawn`"
        )
    require_read(config, origin)
    if config.encryption.rescore_every and config.decision != CLEAR_LEAST:
        raise ConfigError(
            f"{origin}: encryption.rescore_every is {config.encryption.rescore_every}, but no scores pick what is encrypted; set "
            'encryption.sealed_share between 0 and 1 with sensitivity = "gradient", or rescore_every = 0'
        )


def _require_samplable(config: Sections, origin: str) -> None:
    """Refuse a sample that no round could close with, or that other settings contradict."""
    f = config.federation
    wrong = {
        f"only {f.participants} take part (federation.participants); lower it, or 0 asks all": f.sample
        > f.participants,
        f"a sum must hold {f.min_participants} (federation.min_participants), so that no round could close; raise sample": (
            f.sample < f.min_participants
        ),
        f"a sum holds {f.max_participants} at most (federation.max_participants); raise that, or leave it at 0": (
            f.sample > config.capacity
        ),
        "defences.masks lays masks between members before anybody knows whom a round asks: those that are not asked would have "
        "to answer in every round. Set defences.masks = false, or sample = 0": config.defences.masks,
    }
    if f.sample:
        refuse_first(wrong, f"{origin}: federation.sample is {f.sample}, but ")


def _require_tallied(config: Sections, origin: str) -> None:
    """Refuse tallies that would tell of one institution, or that contradict other settings."""
    said = config.tallies
    for when, names in (("opening", said.opening), ("closing", said.closing)):
        if len(set(names)) < len(names):
            raise ConfigError(f"{origin}: tallies.{when} names a tally twice: {names}; name each once")
    if idle := said.options.keys() - {*said.opening, *said.closing}:
        raise ConfigError(
            f"{origin}: tallies.options has {sorted(idle)}, which neither tallies.opening nor .closing asks for; remove them"
        )
    least = config.federation.min_participants
    wrong = {
        f"federation.min_participants is {least}: the sum of fewer than 3 vectors tells each institution what the others' are, "
        "toy_insecure or not; raise it to 3": least < 3,  # noqa: PLR2004 -- the floor that docs/threat-model.md states
        f"privacy.mechanism is {config.privacy.mechanism!r}: no epsilon counts tallies, which are sums without noise. Leave tallies "
        'empty, or set privacy.mechanism = "none"': config.privacy.mechanism != "none",
        f"federation.sample is {config.federation.sample}: a tally is of all institutions, a round asks a sample of them. Set sample = "
        "0": config.federation.sample > 0,
        f"encryption.rescore_every is {config.encryption.rescore_every}: a coordinator could not tell scores that come anew from "
        "closing tallies. Set rescore_every = 0, or leave tallies.closing empty": (
            config.encryption.rescore_every > 0 and bool(said.closing)
        ),
    }
    asked = [*said.opening, *said.closing]
    what = f"tallies {asked} are asked for" if asked else "data.preprocessing tallies statistics of columns"
    if asked or config.data.preprocessing.on:
        refuse_first(wrong, f"{origin}: {what}, but ")


def _require_prepared(config: Sections, origin: str) -> None:
    """Refuse preparation of columns with what would read them before they are prepared, or that says a thing twice."""
    said = config.data.preprocessing
    if said.pipeline and said.model_copy(update={"pipeline": ""}) != Preprocessing():
        raise ConfigError(
            f"{origin}: data.preprocessing.pipeline is {said.pipeline!r} and other keys of the section are set; a pipeline says all of it"
        )
    for name, recipe in {"": said, **said.columns}.items():
        if len(recipe.clip) == 1 or recipe.clip != sorted(set(recipe.clip)):
            raise ConfigError(
                f"{origin}: data.preprocessing{f'.columns.{name}' if name else ''}.clip is {recipe.clip}; expected two rising shares"
            )
    if both := sorted(said.columns.keys() & said.categories.keys()):
        raise ConfigError(
            f"{origin}: data.preprocessing has {both[0]!r} in columns and in categories; name it in one of them"
        )
    wrong = {
        "model.pretrain reads samples before the statistics are known; set model.pretrain.epochs = 0": config.model.pretrain.epochs,
        'decomposition.basis = "gradient" reads samples before they are; set it to "weights"': config.decomposition.enabled
        and config.decomposition.basis == "gradient",
        "a score round would read samples before they are: leave scores.decision empty, and encryption.sealed_share at 1 or "
        'encryption.sensitivity at "magnitude"': bool(config.decision),
    }
    if said.on or said.pipeline:
        refuse_first(wrong, f"{origin}: data.preprocessing prepares columns by pooled statistics, and ")


def _require_measured(config: Sections, origin: str) -> None:
    """Refuse metrics from sums that would tell of one institution, or that nobody would be told."""
    said, least, privacy = config.training.metrics, config.federation.min_participants, config.privacy
    if len(set(said)) < len(said):
        raise ConfigError(f"{origin}: training.metrics names a metric twice: {said}; name each once")
    wrong = {
        f"federation.min_participants is {least}: the sum of fewer than 3 histograms or matrices tells each institution what the "
        "others' are, toy_insecure or not; raise it to 3": least < 3,  # noqa: PLR2004 -- the floor that docs/threat-model.md states
        f"federation.sample is {config.federation.sample}: sums of other institutions in every round tell them apart. Set sample = 0": (
            config.federation.sample > 0
        ),
        f"privacy.mechanism is {privacy.mechanism!r} and privacy.figures is false: nobody would be told a figure. Leave metrics empty, or "
        "set privacy.figures = true, which no epsilon counts": privacy.mechanism != "none" and not privacy.figures,
    }
    if said:
        refuse_first(wrong, f"{origin}: training.metrics {said} are asked for, but ")


def _require_aligned(config: Sections, origin: str) -> None:
    """Refuse metrics that would compare outputs with what they do not stand for: shapes do not tell, and figures would mean nothing."""
    training = config.measuring
    tags = ("tag-accuracy", "confusion", "auroc", "calibration", "kappa")
    labels = ("auroc", "calibration", "confusion", "label-accuracy")
    for tasks, others, fit, what, does in (
        (_FORETELLING, _OF_PLACES, _OF_FORETOLD, "foretells the token behind its place", "compares it with another"),
        (("token-classification",), _OF_FORETOLD, tags, "is of the token at its own place", "compares it with another"),
        (("multi-label",), ("absolute-error", "r2"), labels, "is the log odds of a label", "would take its distance from 0 or 1"),
    ):  # fmt: skip
        if training.task in tasks and (wrong := [n for n in (training.metric, *training.metrics) if n in others]):
            raise ConfigError(
                f"{origin}: an output of training.task {training.task!r} {what}, and the metric {wrong[0]!r} {does}; choose from {', '.join(fit)}"
            )


def _require_maskable(config: Sections, origin: str) -> None:
    defences = config.defences
    if defences.masks and (config.encryption.sealer != "ckks" or config.federation.participants < 3):  # noqa: PLR2004
        raise ConfigError(
            f'{origin}: defences.masks hides an upload among the others\' ciphertexts: it needs encryption.sealer = "ckks" '
            f"and 3 participants, found {config.encryption.sealer!r} and {config.federation.participants}"
        )
    if defences.masks and defences.mask_partners % 2:
        raise ConfigError(f"{origin}: defences.mask_partners is {defences.mask_partners}, expected an even number")


def _require_spendable(config: Sections, origin: str) -> None:
    """Refuse a budget that nobody spends, and a schedule without one."""
    said = config.pruning
    wrong = {
        f'pruning.budget.values is {said.budget.values}, but pruning.schedule is "constant"; set it to "logistic"': (
            said.schedule == "constant" and said.budget != Budget()
        ),
        'pruning.schedule is "logistic", but pruning.budget.values is 0; say how many values may be sent': (
            said.schedule == "logistic" and not said.budget.values
        ),
        f"pruning.quota is {said.quota}, but pruning.enabled is false and nothing is left out; leave it 0": (
            said.quota > 0 and not said.enabled
        ),
        f'pruning.quota is {said.quota}, but pruning.schedule is "logistic", which says itself how many values a round sends; leave it 0': (
            said.quota > 0 and said.schedule == "logistic"
        ),
        "decomposition.refresh_ranks leaves rows of tables unused, which no budget knows of; leave it empty": (
            bool(said.quota or said.budget.values) and bool(config.decomposition.refresh_ranks)
        ),
    }
    refuse_first(wrong, f"{origin}: ")


def _require_private(config: Sections, origin: str) -> None:
    privacy, training = config.privacy, config.training
    is_example = privacy.mechanism == "example"
    wrong = {
        "neither privacy.noise_multiplier nor privacy.epsilon says how much noise there is; set one of them": not (
            privacy.noise_multiplier or privacy.epsilon
        ),
        "encryption.sealed_share picks by gradients, which cross exactly in a round of their own; set encryption."
        'sensitivity = "magnitude", or sealed_share = 1': 0.0 < config.encryption.sealed_share < 1.0
        and config.encryption.sensitivity == "gradient",
        f"scores.decision {config.scores.decision!r} is taken from scores of private samples, which no epsilon counts; leave "
        "scores.decision empty": bool(config.scores.decision),
        "selection.patience stops by validation figures, which are not sent; set privacy.figures = true to send them "
        "outside of epsilon, or patience = 0": config.selection.patience and not privacy.figures,
        "training.clip_norm clips a step's gradient once it has its noise; leave it at 0, privacy.max_grad_norm clips "
        "each sample's": is_example and training.clip_norm,
        "training.autocast, compile and gradient_checkpointing hide the gradients of single samples; leave them off": (
            is_example and (training.autocast != "none" or training.compile or training.gradient_checkpointing)
        ),
        "training.frozen and tf32 are arithmetic that training by single samples does not use; leave them out": is_example
        and (training.frozen != "full" or training.tf32),
        f"privacy.curious is {privacy.curious}: of federation.min_participants = {config.federation.min_participants} in a sum, "
        "at least one must add noise that counts; lower curious or raise min_participants": not is_example
        and privacy.curious >= config.federation.min_participants,
        "encryption.sealed_share below 1 shows single uploads, which hold a share of the noise only; set it to 1, and of a comparison leave "
        "out plaintext and fedml-he, which are such methods": (not is_example and config.encryption.sealed_share < 1.0),
    }
    refuse_first(wrong, f"{origin}: privacy.mechanism is {privacy.mechanism!r}, but ")
