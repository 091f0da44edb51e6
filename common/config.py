"""Configuration file: one TOML, checked; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError

from dictpfl.common.errors import ConfigError, ParameterError
from dictpfl.common.presets import METHODS
from dictpfl.common.protection import Defences, Encryption, Privacy
from dictpfl.common.rounds import CLEAR_LEAST, Aggregation, Budget, Grid, Pruning, Scores, Selection, Tallies
from dictpfl.common.settings import (
    ACTIVATIONS,
    SCORED,
    Data,
    Decomposition,
    Distillation,
    Federation,
    Model,
    Narrow,
    Preprocessing,
    Resources,
    Section,
    Sparsity,
    Tokens,
    Training,
)

_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FREE = ("options", "architecture")
_LIBRARIES = ("timm", "transformers")
"""Words before a colon that a hub's name follows, and no attribute of a module."""


class FederationConfig(Section):
    """Configuration that all institutions agree on, as read from the file."""

    name: str = Field("federation", description="A word for reports and folders.")
    seed: int = Field(
        1, ge=0, description="Of a simulation: data split, W0, training, masks. Deployments draw secrets."
    )
    method: str = Field("dictpfl", description="A preset: " + ", ".join(f"`{m}`" for m in METHODS) + ".")
    toy_insecure: bool = Field(
        False, description="Admit what protects nobody: no encryption, or fewer than 3 institutions."
    )
    federation: Federation = Field(default_factory=Federation)
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    decomposition: Decomposition = Field(default_factory=Decomposition)
    pruning: Pruning = Field(default_factory=Pruning)
    grid: Grid = Field(default_factory=Grid)
    encryption: Encryption = Field(default_factory=Encryption)
    defences: Defences = Field(default_factory=Defences)
    privacy: Privacy = Field(default_factory=Privacy)
    training: Training = Field(default_factory=Training)
    aggregation: Aggregation = Field(default_factory=Aggregation)
    selection: Selection = Field(default_factory=Selection)
    scores: Scores = Field(default_factory=Scores)
    tallies: Tallies = Field(default_factory=Tallies)
    narrow: Narrow = Field(default_factory=Narrow)
    sparsity: Sparsity = Field(default_factory=Sparsity)
    tokens: Tokens = Field(default_factory=Tokens)
    distillation: Distillation = Field(default_factory=Distillation)
    resources: Resources = Field(default_factory=Resources)

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file, then apply dotted overrides such as `{"training.epochs": 2}`.

        Raises:
            ConfigError: unreadable file, syntax, unknown key, or value out of range.
            ParameterError (insecure): settings that need `toy_insecure = true` without it.
        """
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration file at {path}; `dictpfl init` writes one to start from") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        return cls.of(raw, overrides, origin=str(path))

    @classmethod
    def of(
        cls, raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str = "configuration"
    ) -> Self:
        """Check a nested mapping, whose sections may be objects such as `dictpfl.Training(epochs=2)`; see `load`."""
        merged: dict[str, Any] = json.loads(json.dumps(raw, default=_said))
        for key, value in (overrides or {}).items():
            _assign(merged, key, value)
        method = merged.get("method", "dictpfl")
        if method not in METHODS:
            raise ConfigError(f"{origin}: unknown method {method!r}; known: {', '.join(METHODS)}")
        _follow_thresholds(merged)
        _follow_sites(merged)
        for key, value in METHODS[method].defaults.items():
            if not _has(merged, key):
                _assign(merged, key, value)
        for key, value in METHODS[method].overrides.items():
            _assign(merged, key, value)
        for key, value in (overrides or {}).items():
            _assign(merged, key, value)  # what was asked for by name wins over a preset
        try:
            config = cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(f"{origin}: " + "; ".join(_explain(error))) from error
        config.require_sound(origin)
        return config

    def require_sound(self, origin: str = "configuration") -> None:
        """Refuse what contradicts itself or protects nobody without saying so."""
        least, most = self.federation.min_participants, self.capacity
        self._require_samplable(origin)
        if self.federation.participants > most and not self.federation.sample:
            raise ConfigError(
                f"{origin}: federation.participants is {self.federation.participants} but max_participants is {most}; "
                "raise max_participants"
            )
        if least > self.federation.participants:
            raise ConfigError(
                f"{origin}: federation.min_participants is {least} but only {self.federation.participants} take part; "
                "no round could ever close"
            )
        d = self.decomposition
        if d.refresh_when != "fixed" and not d.refresh_every:
            raise ConfigError(
                f"{origin}: decomposition.refresh_when is {d.refresh_when!r}, but refresh_every is 0; set the fewest rounds "
                "between two refreshes there"
            )
        if d.enabled and d.basis == "gradient" and not self.data.public_share:
            raise ConfigError(
                f'{origin}: decomposition.basis is "gradient", but there are no public samples to take gradients over; set '
                "data.public_share above 0"
            )
        if max(d.refresh_ranks, default=0) > d.rank:
            raise ConfigError(
                f"{origin}: decomposition.refresh_ranks goes up to {max(d.refresh_ranks)}, tables have rank {d.rank}; raise "
                "decomposition.rank, which costs nothing for rows that are not in use"
            )
        if self.selection.patience and (self.selection.by == "none" or self.data.validation_share == 0.0):
            raise ConfigError(
                f"{origin}: selection.patience is {self.selection.patience}, but nothing is measured to stop by; set "
                "selection.by to `metric` or `loss` and data.validation_share above 0"
            )
        self._require_divisible(origin)
        self._require_used(origin)
        self._require_maskable(origin)
        self._require_tallied(origin)
        self._require_prepared(origin)
        self._require_allottable(origin)
        self._require_measured(origin)
        self._require_narrowable(origin)
        self._require_sparse(origin)
        self._require_teachable(origin)
        self._require_reducible(origin)
        self._require_precise(origin)
        self._require_spendable(origin)
        if self.privacy.mechanism != "none":
            self._require_private(origin)
        if not self.toy_insecure and self.insecurities:
            raise ParameterError(
                f"{origin}: {'; '.join(self.insecurities)}. Change it, or set toy_insecure = true to admit it",
                code="insecure",
            )

    def _require_divisible(self, origin: str) -> None:
        data = self.data
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

    def _require_used(self, origin: str) -> None:
        """Refuse what would have no effect."""
        if self.scores.decision and self.decision != self.scores.decision:
            raise ConfigError(
                f"{origin}: scores.decision is {self.scores.decision!r}, but encryption.sealed_share = "
                f'{self.encryption.sealed_share:g} decides by scores itself; set encryption.sensitivity = "magnitude", or '
                "sealed_share = 1"
            )
        if self.data.sizes == "equal" and self.data.partition not in ("iid", "dirichlet"):
            raise ConfigError(
                f'{origin}: data.sizes is "equal", but data.partition {self.data.partition!r} decides sizes itself; '
                "set data.partition to `dirichlet` or `iid`, or data.sizes to `drawn`"
            )
        if self.encryption.rescore_every and self.decision != CLEAR_LEAST:
            raise ConfigError(
                f"{origin}: encryption.rescore_every is {self.encryption.rescore_every}, but no scores pick what is encrypted; set "
                'encryption.sealed_share between 0 and 1 with sensitivity = "gradient", or rescore_every = 0'
            )

    def _require_samplable(self, origin: str) -> None:
        """Refuse a sample that no round could close with, or that other settings contradict."""
        f = self.federation
        wrong = {
            f"only {f.participants} take part (federation.participants); lower it, or 0 asks all": f.sample
            > f.participants,
            f"a sum must hold {f.min_participants} (federation.min_participants), so that no round could close; raise sample": (
                f.sample < f.min_participants
            ),
            f"a sum holds {f.max_participants} at most (federation.max_participants); raise that, or leave it at 0": (
                f.sample > self.capacity
            ),
            "defences.masks lays masks between members before anybody knows whom a round asks: those that are not asked would have "
            "to answer in every round. Set defences.masks = false, or sample = 0": self.defences.masks,
        }
        for why, is_so in wrong.items():
            if f.sample and is_so:
                raise ConfigError(f"{origin}: federation.sample is {f.sample}, but {why}")

    def _require_tallied(self, origin: str) -> None:
        """Refuse tallies that would tell of one institution, or that contradict other settings."""
        said = self.tallies
        for when, names in (("opening", said.opening), ("closing", said.closing)):
            if len(set(names)) < len(names):
                raise ConfigError(f"{origin}: tallies.{when} names a tally twice: {names}; name each once")
        if idle := said.options.keys() - {*said.opening, *said.closing}:
            raise ConfigError(
                f"{origin}: tallies.options has {sorted(idle)}, which neither tallies.opening nor .closing asks for; remove them"
            )
        least = self.federation.min_participants
        wrong = {
            f"federation.min_participants is {least}: the sum of fewer than 3 vectors tells each institution what the others' are, "
            "toy_insecure or not; raise it to 3": least < 3,  # noqa: PLR2004 -- the floor that docs/threat-model.md states
            f"privacy.mechanism is {self.privacy.mechanism!r}: no epsilon counts tallies, which are sums without noise. Leave tallies "
            'empty, or set privacy.mechanism = "none"': self.privacy.mechanism != "none",
            f"federation.sample is {self.federation.sample}: a tally is of all institutions, a round asks a sample of them. Set sample = "
            "0": self.federation.sample > 0,
            f"encryption.rescore_every is {self.encryption.rescore_every}: a coordinator could not tell scores that come anew from "
            "closing tallies. Set rescore_every = 0, or leave tallies.closing empty": (
                self.encryption.rescore_every > 0 and bool(said.closing)
            ),
        }
        asked = [*said.opening, *said.closing]
        what = f"tallies {asked} are asked for" if asked else "data.preprocessing tallies statistics of columns"
        for why, is_so in wrong.items():
            if is_so and (asked or self.data.preprocessing.on):
                raise ConfigError(f"{origin}: {what}, but {why}")

    def _require_prepared(self, origin: str) -> None:
        """Refuse preparation of columns with what would read them before they are prepared, or that says a thing twice."""
        said = self.data.preprocessing
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
            "model.pretrain reads samples before the statistics are known; set model.pretrain.epochs = 0": self.model.pretrain.epochs,
            'decomposition.basis = "gradient" reads samples before they are; set it to "weights"': self.decomposition.enabled
            and self.decomposition.basis == "gradient",
            "a score round would read samples before they are: leave scores.decision empty, and encryption.sealed_share at 1 or "
            'encryption.sensitivity at "magnitude"': bool(self.decision),
        }
        for why, is_so in wrong.items():
            if is_so and (said.on or said.pipeline):
                raise ConfigError(f"{origin}: data.preprocessing prepares columns by pooled statistics, and {why}")

    def _require_allottable(self, origin: str) -> None:
        """Refuse an allocator by scores without them, and what only an allocator reads where there is none."""
        d = self.decomposition
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
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: {why}")

    def _require_measured(self, origin: str) -> None:
        """Refuse metrics from sums that would tell of one institution, or that nobody would be told."""
        said, least, privacy = self.training.metrics, self.federation.min_participants, self.privacy
        if len(set(said)) < len(said):
            raise ConfigError(f"{origin}: training.metrics names a metric twice: {said}; name each once")
        wrong = {
            f"federation.min_participants is {least}: the sum of fewer than 3 histograms or matrices tells each institution what the "
            "others' are, toy_insecure or not; raise it to 3": least < 3,  # noqa: PLR2004 -- the floor that docs/threat-model.md states
            f"federation.sample is {self.federation.sample}: sums of other institutions in every round tell them apart. Set sample = 0": (
                self.federation.sample > 0
            ),
            f"privacy.mechanism is {privacy.mechanism!r} and privacy.figures is false: nobody would be told a figure. Leave metrics empty, or "
            "set privacy.figures = true, which no epsilon counts": privacy.mechanism != "none" and not privacy.figures,
        }
        for why, is_so in wrong.items():
            if said and is_so:
                raise ConfigError(f"{origin}: training.metrics {said} are asked for, but {why}")

    def _require_maskable(self, origin: str) -> None:
        defences = self.defences
        if defences.masks and (self.encryption.sealer != "ckks" or self.federation.participants < 3):  # noqa: PLR2004
            raise ConfigError(
                f'{origin}: defences.masks hides an upload among the others\' ciphertexts: it needs encryption.sealer = "ckks" '
                f"and 3 participants, found {self.encryption.sealer!r} and {self.federation.participants}"
            )
        if defences.masks and defences.mask_partners % 2:
            raise ConfigError(f"{origin}: defences.mask_partners is {defences.mask_partners}, expected an even number")

    @property
    def distils(self) -> bool:
        """True where a teacher's outputs are learnt."""
        return self.training.task == "distillation"

    @property
    def measuring(self) -> Training:
        """Training as its results are measured: under the task behind a distillation, any other under its own."""
        return self.training.model_copy(update={"task": self.distillation.task}) if self.distils else self.training

    def _require_teachable(self, origin: str) -> None:
        """Refuse a teacher that nobody asks, and a pupil without one."""
        if self.distils and not (self.distillation.teacher or self.distillation.recorded):
            raise ConfigError(
                f'{origin}: training.task is "distillation", but distillation.teacher names no model; set it to transformers:FOLDER, '
                "timm:NAME or the folder of a run"
            )
        if not self.distils and self.distillation != Distillation():
            raise ConfigError(
                f'{origin}: [distillation] names a teacher, but training.task is {self.training.task!r}; set it to "distillation", or '
                "leave the section out"
            )

    def _require_narrowable(self, origin: str) -> None:
        """Refuse gates with what does not know of them, and settings of gates where there are none."""
        if not self.narrow.axes:
            if self.narrow != Narrow():
                raise ConfigError(
                    f'{origin}: [narrow] says how gates are trained, but narrow.axes is empty and there are none; set axes = ["ffn"]'
                )
            return
        if self.privacy.mechanism != "none":
            raise ConfigError(
                f"{origin}: narrow.axes with privacy.mechanism {self.privacy.mechanism!r}: gates have no gradients of single samples "
                "and their penalty no account; narrow without privacy, or leave narrow.axes empty"
            )

    def _require_sparse(self, origin: str) -> None:
        """Refuse thresholds with what would train something else or tell more, and settings of thresholds where there are none."""
        said, d = self.sparsity, self.decomposition
        if said.method == "none":
            if said != Sparsity():
                raise ConfigError(f'{origin}: [sparsity] is set, but sparsity.method is "none"; set it to "lua"')
            return
        tallied = ACTIVATIONS in self.tallies.opening
        wrong = {
            "decomposition.dense, local, frozen and last_layers say what else is trained, and nothing is; leave them out": (
                d.dense or d.local or d.frozen or d.last_layers
            ),
            "narrow.axes trains gates; narrow in a federation of its own": self.narrow.axes,
            f"privacy.mechanism is {self.privacy.mechanism!r}: thresholds have no gradients of single samples; leave it `none`": (
                self.privacy.mechanism != "none"
            ),
            'encryption.sealed_share picks by gradients; set encryption.sensitivity = "magnitude", or sealed_share = 1': self.decision,
            f'sparsity.scores = "wanda" needs the tally {ACTIVATIONS!r} in tallies.opening': said.scores == "wanda"
            and not tallied,
            f'sparsity.scores = "magnitude" has no use for the tally {ACTIVATIONS!r}; leave it out': said.scores
            != "wanda"
            and tallied,
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: sparsity.method is {said.method!r}, but {why}")

    def _require_spendable(self, origin: str) -> None:
        """Refuse a budget that nobody spends, and a schedule without one."""
        said = self.pruning
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
            "decomposition.refresh_ranks leaves rows of tables unused, which no budget knows of; leave it empty": (
                bool(said.quota or said.budget.values) and bool(self.decomposition.refresh_ranks)
            ),
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: {why}")

    def _require_precise(self, origin: str) -> None:
        """Refuse arithmetic that nothing would use."""
        training = self.training
        wrong = {
            'training.frozen is "narrow", and training.autocast is "none": frozen weights take its type; set autocast = "auto"': (
                training.frozen == "narrow" and training.autocast == "none"
            ),
            'training.dtype is "float64", and training.frozen or tf32 narrows float32 alone; leave them out': (
                training.dtype == "float64" and (training.frozen == "narrow" or training.tf32)
            ),
            f'training.frozen is "narrow", and sparsity.method is {self.sparsity.method!r}: thresholds compare frozen weights as they are; '
            "leave frozen out": training.frozen == "narrow" and self.sparsity.method != "none",
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: {why}")

    def _require_reducible(self, origin: str) -> None:
        """Refuse a reducer of tokens with what needs all of them or the same number in every step, and settings of none."""
        said, training = self.tokens, self.training
        if said.reducer == "none":
            if said != Tokens():
                raise ConfigError(
                    f'{origin}: [tokens] is set, but tokens.reducer is "none"; name a reducer, such as "autoprune"'
                )
            return
        wrong = {
            'privacy.mechanism is "example": gradients of single samples are not known where a batch is split; leave it `none`': (
                self.privacy.mechanism == "example"
            ),
            "training.compile and gradient_checkpointing run layers in their own way; leave them off": training.compile
            or training.gradient_checkpointing,
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: tokens.reducer is {said.reducer!r}, but {why}")

    def _require_private(self, origin: str) -> None:
        privacy, training = self.privacy, self.training
        is_example = privacy.mechanism == "example"
        wrong = {
            "neither privacy.noise_multiplier nor privacy.epsilon says how much noise there is; set one of them": not (
                privacy.noise_multiplier or privacy.epsilon
            ),
            "encryption.sealed_share picks by gradients, which cross exactly in a round of their own; set encryption."
            'sensitivity = "magnitude", or sealed_share = 1': 0.0 < self.encryption.sealed_share < 1.0
            and self.encryption.sensitivity == "gradient",
            f"scores.decision {self.scores.decision!r} is taken from scores of private samples, which no epsilon counts; leave "
            "scores.decision empty": bool(self.scores.decision),
            "selection.patience stops by validation figures, which are not sent; set privacy.figures = true to send them "
            "outside of epsilon, or patience = 0": self.selection.patience and not privacy.figures,
            "training.clip_norm clips a step's gradient once it has its noise; leave it at 0, privacy.max_grad_norm clips "
            "each sample's": is_example and training.clip_norm,
            "training.autocast, compile and gradient_checkpointing hide the gradients of single samples; leave them off": (
                is_example and (training.autocast != "none" or training.compile or training.gradient_checkpointing)
            ),
            f"privacy.curious is {privacy.curious}: of federation.min_participants = {self.federation.min_participants} in a sum, "
            "at least one must add noise that counts; lower curious or raise min_participants": not is_example
            and privacy.curious >= self.federation.min_participants,
            "encryption.sealed_share below 1 shows single uploads, which hold a share of the noise only; set it to 1": (
                not is_example and self.encryption.sealed_share < 1.0
            ),
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"{origin}: privacy.mechanism is {privacy.mechanism!r}, but {why}")

    @property
    def capacity(self) -> int:
        """Most uploads that one sum can hold."""
        return self.federation.max_participants or max(3, self.federation.sample or self.federation.participants)

    @property
    def decision(self) -> str:
        """Name of what score rounds decide; empty: no score rounds."""
        selective = 0.0 < self.encryption.sealed_share < 1.0 and self.encryption.sensitivity == "gradient"
        return CLEAR_LEAST if selective else self.scores.decision

    @property
    def score_rounds(self) -> int:
        """Rounds before the first update, in which scores are sent."""
        return 0 if not self.decision else self.scores.rounds if self.scores.decision else 1

    @property
    def insecurities(self) -> tuple[str, ...]:
        """Reasons why this federation protects less than it should; empty where there are none."""
        reasons = []
        if self.encryption.sealer != "ckks":
            reasons.append(
                f"encryption.sealer is {self.encryption.sealer!r}: nothing is encrypted and the server reads every update"
            )
        if self.encryption.sealed_share < 1.0:
            reasons.append(
                f"encryption.sealed_share is {self.encryption.sealed_share:g}: the rest of each update crosses in clear"
            )
        if self.federation.min_participants < 3:  # noqa: PLR2004 -- the floor that docs/threat-model.md states
            reasons.append(
                f"federation.min_participants is {self.federation.min_participants}: "
                "with fewer than 3 an institution can subtract its own update from the sum"
            )
        return tuple(reasons)

    @property
    def own_code(self) -> Mapping[str, str]:
        """Configuration keys that name code by `package.module:name`, each with that name: it runs where the configuration does.

        Free-form tables (`options`, `architecture`) are data to the code that reads them, and are left out.
        """
        return dict(_named_code(self.model_dump(mode="json"), ""))

    def canonical(self) -> bytes:
        """Encode as canonical JSON, for comparisons."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def _named_code(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every key below `key` whose value leads to an import, with the value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _FREE:
                yield from _named_code(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_code(inner, key)
    elif isinstance(value, str) and _CODE.fullmatch(value) and value.partition(":")[0] not in _LIBRARIES:
        yield key, value


def _follow_thresholds(merged: dict[str, Any]) -> None:
    """Fill in what a federation of thresholds has unless the file says otherwise: its tally, and no pruning of updates."""
    said = merged.get("sparsity")
    if not isinstance(said, dict) or said.get("method", "none") == "none":
        return
    if not _has(merged, "pruning.enabled"):
        _assign(merged, "pruning.enabled", False)
    if said.get("scores", "wanda") == "wanda" and not _has(merged, "tallies.opening"):
        _assign(merged, "tallies.opening", [ACTIVATIONS])


def _follow_sites(merged: dict[str, Any]) -> None:
    """Fill in that each institution keeps what is its own, where each has a file."""
    data = merged.get("data")
    if isinstance(data, dict) and (data.get("paths") or _WILD & set(str(data.get("path", "")))):
        data.setdefault("partition", "column")


_WILD = frozenset("*?[")
"""Marks of a pattern in a path (`dictpfl.client.data.samples.is_pattern`)."""


def _said(section: Any) -> Any:
    """What was said of a section that is given as an object; its defaults yield to a preset's."""
    if not isinstance(section, Section):
        raise ConfigError(f"configuration: expected numbers, words, lists and sections, found {type(section).__name__}")
    return section.model_dump(mode="json", exclude_unset=True)


def _assign(target: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{dotted!r}: {section!r} is not a section")
    target[last] = value


def _has(target: Mapping[str, Any], dotted: str) -> bool:
    *sections, last = dotted.split(".")
    for section in sections:
        target = target.get(section, {})
    return last in target


def known_keys(model: type[BaseModel] = FederationConfig, prefix: str = "") -> Iterator[str]:
    """List the dotted names of all keys."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from known_keys(kind, f"{prefix}{name}.")


def _explain(error: ValidationError) -> Iterator[str]:
    for issue in error.errors():
        key = ".".join(str(part) for part in issue["loc"])
        if issue["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, list(known_keys()), n=1, cutoff=0.0)
            yield f"unknown key {key!r}; the nearest known key is {near[0]!r}"
        else:
            yield f"{key}: {issue['msg']}, found {issue['input']!r}"


def literal_values(section: type[Section], field: str) -> tuple[str, ...]:
    """List the words that a field admits."""
    return get_args(section.model_fields[field].annotation)
