"""Checks of what a configuration says of models: their tables, thresholds, gates, teachers, tokens and arithmetic."""

from __future__ import annotations

from importlib.util import find_spec

from dictpfl.common.config.refusing import refuse_first
from dictpfl.common.config.sections import Sections
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import ACTIVATIONS, FEW_BITS, SCORED, Distillation, Narrow, Sparsity, Tokens, Training

_OF_PICTURES = ("mlp", "cnn", "vit_tiny", "tabular", "vlm")
_LIBRARIES = ("timm", "transformers")
"""Models that read no tokens of clips."""


def require_allottable(config: Sections, origin: str) -> None:
    """Refuse an allocator by scores without them, and what only an allocator reads where there is none."""
    d = config.decomposition
    wrong = {
        f"decomposition.allocator {d.allocator!r} divides by scores; name their file by decomposition.scores (`dictpfl audit layers` "
        "writes it)": d.allocator in SCORED and not d.scores,
        "decomposition.scores, rank_max and rank_min are read by allocators; set decomposition.allocator, or leave them out": (
            d.allocator == "uniform" and bool(d.scores or d.rank_max or d.rank_min > 1)
        ),
        f"decomposition.allocator {d.allocator!r} and refresh_ranks both say what a table's rank is; leave one of them out": (
            d.allocator in SCORED and bool(d.refresh_ranks)
        ),
        f"decomposition.rank is {d.rank}, rank_min {d.rank_min} and rank_max {d.rank_max or 2 * d.rank}: expected rank_min <= rank <= "
        "rank_max": d.allocator != "uniform" and not d.rank_min <= d.rank <= (d.rank_max or d.rank),
    }
    refuse_first(wrong, f"{origin}: ")


def require_teachable(config: Sections, origin: str) -> None:
    """Refuse a teacher that nobody asks, and a pupil without one."""
    if config.distils and not (config.distillation.teacher or config.distillation.recorded):
        raise ConfigError(
            f'{origin}: training.task is "distillation", but distillation.teacher names no model; set it to transformers:FOLDER, '
            "timm:NAME or the folder of a run"
        )
    if not config.distils and config.distillation != Distillation():
        raise ConfigError(
            f'{origin}: [distillation] names a teacher, but training.task is {config.training.task!r}; set it to "distillation", or '
            "leave the section out"
        )


def require_narrowable(config: Sections, origin: str) -> None:
    """Refuse gates with what does not know of them, and settings of gates where there are none."""
    if not config.narrow.axes:
        if config.narrow != Narrow():
            raise ConfigError(
                f'{origin}: [narrow] says how gates are trained, but narrow.axes is empty and there are none; set axes = ["ffn"]'
            )
        return
    if config.narrow.keep >= 1 and config.narrow.keep != int(config.narrow.keep):
        raise ConfigError(
            f"{origin}: narrow.keep is {config.narrow.keep:g}; expected a share of each layer's units below 1, or a whole number of them"
        )
    if config.privacy.mechanism != "none":
        raise ConfigError(
            f"{origin}: narrow.axes with privacy.mechanism {config.privacy.mechanism!r}: gates have no gradients of single samples "
            "and their penalty no account; narrow without privacy, or leave narrow.axes empty"
        )
    if config.decision:
        raise ConfigError(
            f"{origin}: narrow.axes, but a score round picks by gradients of weights, and gates are none: leave scores.decision empty, and set "
            'encryption.sensitivity = "magnitude", or sealed_share = 1'
        )


def require_sparse(config: Sections, origin: str) -> None:
    """Refuse thresholds with what would train something else or tell more, and settings of thresholds where there are none."""
    said, d = config.sparsity, config.decomposition
    if said.method == "none":
        if said != Sparsity():
            raise ConfigError(f'{origin}: [sparsity] is set, but sparsity.method is "none"; set it to "lua"')
        return
    tallied = ACTIVATIONS in config.tallies.opening
    wrong = {
        "decomposition.dense, local, frozen and last_layers say what else is trained, and nothing is; leave them out": (
            d.dense or d.local or d.frozen or d.last_layers
        ),
        "narrow.axes trains gates; narrow in a federation of its own": config.narrow.axes,
        f"privacy.mechanism is {config.privacy.mechanism!r}: thresholds have no gradients of single samples; leave it `none`": (
            config.privacy.mechanism != "none"
        ),
        'encryption.sealed_share picks by gradients; set encryption.sensitivity = "magnitude", or sealed_share = 1': config.decision,
        f'sparsity.scores = "wanda" needs the tally {ACTIVATIONS!r} in tallies.opening': said.scores == "wanda"
        and not tallied,
        f'sparsity.scores = "magnitude" has no use for the tally {ACTIVATIONS!r}; leave it out': said.scores != "wanda"
        and tallied,
    }
    refuse_first(wrong, f"{origin}: sparsity.method is {said.method!r}, but ")


def require_reducible(config: Sections, origin: str) -> None:
    """Refuse a reducer of tokens with what needs all of them or the same number in every step, and settings of none."""
    said, training = config.tokens, config.training
    if said.reducer == "none":
        if said != Tokens():
            raise ConfigError(
                f'{origin}: [tokens] is set, but tokens.reducer is "none"; name a reducer, such as "autoprune"'
            )
        return
    wrong = {
        'privacy.mechanism is "example": gradients of single samples are not known where a batch is split; leave it `none`': (
            config.privacy.mechanism == "example"
        ),
        "training.compile and gradient_checkpointing run layers in their own way; leave them off": training.compile
        or training.gradient_checkpointing,
    }
    refuse_first(wrong, f"{origin}: tokens.reducer is {said.reducer!r}, but ")


def require_readable(config: Sections, origin: str) -> None:
    """Refuse features of clips for models that would take them for pictures, and changes of pictures on them."""
    if not config.data.of_features:
        return
    source = config.model.source
    wrong = {
        f'model.source is {source!r}, which reads images or numbers; set it to "video", or to a function of your own': (
            source in _OF_PICTURES or source.partition(":")[0] in _LIBRARIES
        ),
        f"training.augment {list(config.training.augment)} changes images; leave it empty": bool(
            config.training.augment
        ),
    }
    refuse_first(wrong, f"{origin}: data.options.features makes tokens of clips, and ")


def require_precise(training: Training, sparsity: str, origin: str) -> None:
    """Refuse arithmetic that nothing would use, or that something else rules out.

    Args:
        training: settings of an agreement, or those of an institution.
        sparsity: `sparsity.method`.
        origin: what to name in messages.

    Raises:
        ConfigError: it is.
    """
    wrong = {
        'training.frozen is "narrow", and training.autocast is "none": frozen weights take its type; set autocast = "auto"': (
            training.frozen == "narrow" and training.autocast == "none"
        ),
        'training.dtype is "float64", and training.frozen or tf32 narrows float32 alone; leave them out': (
            training.dtype == "float64" and (training.frozen != "full" or training.tf32)
        ),
        f"training.frozen is {training.frozen!r}, and sparsity.method is {sparsity!r}: thresholds compare frozen weights as they are; "
        "leave frozen out": training.frozen != "full" and sparsity != "none",
        f"training.frozen is {training.frozen!r}, and training.compile is on: torch.compile cannot look into weights of few bits; leave one "
        "out": training.frozen in FEW_BITS and training.compile,
    }
    refuse_first(wrong, f"{origin}: ")


def require_bitsandbytes(frozen: str = "8 or 4 bits", place: str = "the configuration") -> None:
    """Refuse weights of few bits on a machine that cannot make them.

    Args:
        frozen: value of `frozen` that asks for them.
        place: file in which it can be set to something else.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"training.frozen of {frozen} needs bitsandbytes, which is not installed: pip install 'dictpfl[quantised]', or set "
            f'frozen = "full" in {place}'
        )
