"""Description of a federation that is not founded: what each parameter becomes and why, and what a round costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.data.classes import notes_on_classes
from dictpfl.client.data.pipelines import with_pipeline
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.scales import notes_on
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Parts, Role, parts
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import outputs_of, task_of
from dictpfl.client.training.train import train
from dictpfl.client.training.workbench import twin_of
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer, IdentitySealer
from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import Genesis, components
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.round import begin
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import ENTRY_BYTES, HEADER_BYTES
from dictpfl.common.settings import Decomposition
from dictpfl.common.words import packed_length
from dictpfl.deploy.agreeing import draw_genesis, require_trainable
from dictpfl.deploy.calibrating import with_measured_tokens
from dictpfl.deploy.simulation.counting import require_ordered
from dictpfl.deploy.simulation.founding import of_skill, shape_of, trial_of, with_names
from dictpfl.deploy.simulation.partition import divide

_PLAIN_BYTES = 4  # of a value that FedAvg sends, float32
_ADAM = 4  # numbers kept for each that is trained: itself, its gradient, two moments
_MOST_SEALED = 4  # ciphertexts that are sealed to see how long one takes


@dataclass(frozen=True)
class Row:
    """One parameter or running statistic.

    Attributes:
        name, shape: its own.
        values: number of its values.
        role: what becomes of it (`dictpfl.client.model.rules.Role`).
        why: what decided that.
        shared: values that are sent in a round in which nothing is pruned.
        bytes: their part of such an upload.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    role: str
    why: str
    shared: int
    bytes: int


@dataclass(frozen=True)
class Description:
    """Description of what a configuration means.

    Attributes:
        rows: parameters, in the model's order.
        samples: of an institution's training, on average.
        sample_shape, outputs: what the model is built for.
        parties: institutions.
        first: bytes of an upload of the first round, which has wider digits.
        upload: bytes of a later one in which nothing is pruned; pruning makes it smaller.
        plaintext: bytes of the whole model in clear, four a value.
        memory: bytes of model, what is trained and its optimiser, samples and one upload at an institution, without activations.
        train_seconds, seal_seconds: of a round at an institution, measured on this machine on a few batches and ciphertexts.
        statistics, closing: encrypted rounds before the first update, and after the last.
        warnings: what should be looked at.
    """

    rows: tuple[Row, ...]
    samples: int
    sample_shape: tuple[int, ...]
    outputs: int
    parties: int
    first: int
    upload: int
    plaintext: int
    memory: int
    train_seconds: float
    seal_seconds: float
    statistics: tuple[str, ...]
    closing: tuple[str, ...]
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "parameters": [vars(row) | {"shape": list(row.shape)} for row in self.rows],
            "values": {
                "model": sum(
                    row.values for row in self.rows if row.role != _GATE and not row.role.endswith("statistic")
                ),
                "shared": sum(row.shared for row in self.rows),
            },
            "samples": self.samples,
            "sample_shape": list(self.sample_shape),
            "outputs": self.outputs,
            "institutions": self.parties,
            "bytes": {"first": self.first, "round": self.upload, "plaintext": self.plaintext},
            "memory": self.memory,
            "seconds": {"train": self.train_seconds, "seal": self.seal_seconds},
            "opening": list(self.statistics),
            "closing": list(self.closing),
            "warnings": list(self.warnings),
        }


def describe(config: FederationConfig) -> Description:
    """Read the data, build the model, and say what a federation of both would be; nothing is written, nothing is sent.

    Raises:
        DictPFLError: data, model or parameters cannot be used, as when a simulation is founded.
    """
    torch.set_num_threads(config.training.threads)
    config = with_pipeline(config)
    dataset = load_dataset(config.data, config.seed)
    require_ordered(config, dataset)
    notes = (*notes_on(dataset), *notes_on_classes(dataset, config.data))
    config, sample_shape = with_names(config, dataset), shape_of(with_names(config, dataset), dataset)
    division = of_skill(divide(dataset, config.data, config.federation.participants, config.seed), config.narrow)
    trained = [share.train.of_classes(config.narrow.classes) for share in division.institutions]
    largest = max(trained, key=len)
    outputs = outputs_of(task_of(config.measuring), dataset.outputs)
    model = build_model(config.model, sample_shape, outputs, config.seed)
    trial = trial_of(largest, sample_shape)
    require_trainable(model, [trial], config, outputs)
    config, _ = with_measured_tokens(config, model, [trial], division.public)
    parameters = CKKSParameters.choose(config.encryption, config.capacity, config.grid.value_bits)
    genesis, _ = draw_genesis(
        config, model, IdentitySealer(parameters), seed=bytes(32), sample_cap=config.federation.sample_cap or len(largest),
        sample_shape=sample_shape, outputs=outputs,
    )  # fmt: skip
    first, upload = _upload(genesis, updates=0), _upload(genesis, updates=1)
    twin = twin_of(genesis, model)
    rows = _rows(twin, model, config, genesis, upload)
    plaintext = _PLAIN_BYTES * sum(p.numel() for p in model.parameters())
    moved = _ADAM * _PLAIN_BYTES * sum(p.numel() for p in twin.module.parameters() if p.requires_grad)
    held = largest.nbytes
    return Description(
        rows, sum(map(len, trained)) // len(trained), sample_shape, outputs, len(trained), first,
        upload, plaintext, plaintext + moved + held + upload, _train_seconds(twin, trial, config), _seal_seconds(genesis),
        tuple(tally.name for tally in genesis.law.opening), tuple(tally.name for tally in genesis.law.closing), (*notes, *_warnings(rows, model, config, upload, plaintext)),
    )  # fmt: skip


def _upload(genesis: Genesis, updates: int) -> int:
    """Bytes of an upload in which nothing is pruned, after so many updates."""
    state = genesis.start()
    # The law looks at the number of updates for the digits of a round; rounds before the first update need no place here.
    plan = begin(
        genesis.law, replace(state, updates=updates, round=updates + len(genesis.law.opening)), RoundKind.UPDATE
    )
    words = genesis.words(components(genesis, plan))
    in_clear = 4 * plan.clear.size
    return HEADER_BYTES + ENTRY_BYTES + packed_length(words, genesis.parameters.word_bits) + in_clear


def _rows(twin: Twin, model: nn.Module, config: FederationConfig, genesis: Genesis, upload: int) -> tuple[Row, ...]:
    shared = {entry.name: entry.size for entry in genesis.layout.entries}
    ranks = {
        name: dictionary.rank for name, dictionary in genesis.dictionaries.items()
    }  # an allocator may have chosen them
    total, sorted_ = sum(shared.values()), parts(model, config.decomposition)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    rows = [
        Row(
            name, tuple(tensors[name].shape), tensors[name].numel(), _named(role, config), _why(name, role, config, sorted_, fixed, ranks),
            shared.get(name, 0), round(upload * shared.get(name, 0) / total),
        )
        for name, role in twin.roles.items()
    ]  # fmt: skip
    gates = [entry for entry in genesis.layout.entries if entry.kind is Kind.GATE]
    rows += [Row(e.name, e.shape, e.size, _GATE, _OF_GATES, e.size, round(upload * e.size / total)) for e in gates]
    return tuple(rows)


def _named(role: Role, config: FederationConfig) -> str:
    return _THRESHOLDS if role is Role.DENSE and config.sparsity.method != "none" else str(role)


def _why(
    name: str, role: Role, config: FederationConfig, sorted_: Parts, fixed: set[str], ranks: Mapping[str, int]
) -> str:
    """The rule of `dictpfl.client.model.rules.survey` that decided."""
    said, masked = config.decomposition, config.sparsity.method
    if masked != "none":
        # Thresholds are all that is trained, whatever [decomposition] says.
        rows = f'a threshold a row: sparsity.method = "{masked}"'
        return rows if role is Role.DENSE else "it stays as it is: thresholds are trained"
    for key in ("dense", "local", "frozen"):
        if pattern := next((p for p in getattr(said, key) if fnmatchcase(name, p)), ""):
            return f'decomposition.{key} = "{pattern}"'
    rules = {
        f'decomposition.batch_norm = "{said.batch_norm}"': role.endswith("statistic"),
        _FIXED: name in fixed,
        f"decomposition.last_layers = {said.last_layers}": said.last_layers,
        "decomposition.enabled = false": not said.enabled,
    }
    return next((why for why, is_so in rules.items() if is_so), "") or _why_by_kind(
        name, role, said, sorted_, ranks.get(name, said.rank)
    )


def _why_by_kind(name: str, role: Role, said: Decomposition, sorted_: Parts, rank: int) -> str:
    """The rule among those that go by what a parameter is; `rank` is that of its table."""
    kind, attribute = sorted_.kinds[name], name.rpartition(".")[2]
    n, m = sorted_.covered.get(name, (0, 0))
    form = f"{rank} x {rank}" if said.form == "core" else f"of rank {rank}"
    rules = {
        f"a {said.form} {form} for {n} x {m}": role is Role.TABLE,
        f'the head: decomposition.head = "{said.head}"': name in sorted_.head and said.head != "decomposed",
        f'an embedding: decomposition.embeddings = "{said.embeddings}"': name in sorted_.embeddings
        and said.embeddings != "decomposed",
        f"decomposition.norms = {str(said.norms).lower()}": "norm" in kind.lower(),
        f"decomposition.biases = {str(said.biases).lower()}": "bias" in attribute,
        f"a table of rank {said.rank} would be as large": name in sorted_.covered,
        f"a small tensor or position of {kind}: decomposition.tokens, positions": role is Role.FROZEN
        or name not in sorted_.matrices,
    }
    return next((why for why, is_so in rules.items() if is_so), f"{_UNCOVERED} in {kind}")


_FIXED, _UNCOVERED = "requires_grad is False in the model", "no layer type covers it"
_GATE, _OF_GATES = "gate", "a gate a unit in front of it: narrow.axes"
"""Role of gates, which are no parameters of the model, and the reason for it."""
_THRESHOLDS = "thresholds"


def _warnings(
    rows: tuple[Row, ...], model: nn.Module, config: FederationConfig, upload: int, plaintext: int
) -> tuple[str, ...]:
    said, found = config.decomposition, list[str]()
    wholly = said.enabled and not said.last_layers and config.sparsity.method == "none"
    large = sorted(
        (row for row in rows if row.role == Role.DENSE and row.why.startswith(_UNCOVERED)),
        key=lambda r: -r.values,
    )
    if wholly and not any(row.role == Role.TABLE for row in rows):
        found.append(
            "nothing is decomposed: all that is trained is sent whole, at every change. Tables go to Linear, convolution, attention, recurrent and "
            "embedding layers, to plug-ins' (decomposition.layers) and to what decomposition.tables names; lower decomposition.rank if a table would be as large"
        )
    if wholly and large:
        names = ", ".join(f"{row.name} ({row.values:,} values)" for row in large[:3])
        found.append(
            f"{len(large)} weights are matrices that no layer type covers, and are sent whole: {names}; decomposition.tables gives them "
            "tables by name, decomposition.frozen leaves them as they are"
        )
    sizes = (
        {r.name: s for r in rows if r.role == Role.TABLE for s in [parts(model, said).covered[r.name]]}
        if wholly
        else {}
    )
    if full := [name for name, shape in sizes.items() if said.rank >= min(shape)]:
        found.append(
            f"decomposition.rank = {said.rank} is that of the whole matrix for {', '.join(full[:3])}: a table there restricts nothing; lower the rank"
        )
    if fixed := [row for row in rows if row.why == _FIXED]:
        found.append(
            f"{len(fixed)} {'parameters have' if len(fixed) > 1 else 'parameter has'} requires_grad = False in the model and stay as in W0 ({', '.join(r.name for r in fixed[:3])}); "
            "decomposition.dense trains them all the same"
        )
    if config.encryption.sealer == "ckks" and upload >= plaintext:
        found.append(
            f"an upload has {upload:,} bytes, the whole model in clear {plaintext:,}: what encryption adds is more than tables save. It pays in bytes "
            f"from about {upload // _PLAIN_BYTES:,} values in the model on, at these settings and with nothing pruned; below, you pay for secrecy"
        )
    return tuple(found)


def _train_seconds(twin: Twin, samples: Samples, config: FederationConfig) -> float:
    """Seconds of a round's training, from a step on this machine; the first one, which loads libraries, is not counted."""
    said, batch = config.training, samples.take(np.arange(min(len(samples), config.training.batch_size)))
    once = said.model_copy(update={"steps": 1, "epochs": 1, "accumulate": 1, "compile": False})
    task = task_of(config.measuring)
    if config.distils:
        return 0.0
    trained: Callable[..., object] = train
    if config.privacy.mechanism == "example":
        from dictpfl.client.privacy.dpsgd import train_privately

        trained = partial(train_privately, privacy=config.privacy, noise=1.0)  # how much of it takes no time
    trained(twin, batch, once, task, seed=0)
    began = time.perf_counter()
    trained(twin, batch, once, task, seed=1)
    steps = said.steps * said.accumulate or said.epochs * -(-len(samples) // said.batch_size)
    return (time.perf_counter() - began) * steps


def _seal_seconds(genesis: Genesis) -> float:
    """Seconds to seal an upload, from a few ciphertexts under a key that is thrown away."""
    if not genesis.encrypted:
        return 0.0
    parameters = genesis.parameters
    plan = begin(genesis.law, replace(genesis.start(), updates=1, round=1 + len(genesis.law.opening)), RoundKind.UPDATE)
    many = components(genesis, plan)
    some = min(many, _MOST_SEALED * parameters.ring_degree)
    sealer = CKKSSealer(make_key(parameters))
    sealer.seal(np.zeros(min(some, parameters.ring_degree), np.int64))
    began = time.perf_counter()
    sealer.seal(np.zeros(some, np.int64))
    return (time.perf_counter() - began) * parameters.ciphertexts(many) / parameters.ciphertexts(some)
