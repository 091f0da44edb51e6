"""Federated fine-tuning on encrypted updates: decompose, prune, encrypt, add, open, update.

A run, simulated on this machine:

    import dictpfl
    config = dictpfl.FederationConfig.load("experiments/digits.toml")
    run = dictpfl.simulate(config, "runs/mine", engine="local")
    print(run.accuracy, run.summary["bytes"])

A round, step by step, on toy numbers. All institutions know the weight matrix W0 of a layer. Its *dictionary* D comes from
W0's leading singular vectors and stays; what is trained and shared is the *lookup table* T in W0 + D T.

>>> import numpy as np
>>> from dictpfl.common.law.dictionary import decompose
>>> from dictpfl.common.law.layout import Kind, Layout
>>> weight = np.eye(4, 6) + np.outer([1, 2, 3, 4], [1, 0, 1, 0, 1, 0])
>>> dictionary = decompose(weight, rank=2)
>>> layout = Layout.of([("layer", dictionary.table_shape(weight.shape), Kind.TABLE)])
>>> weight.size, dictionary.matrix.shape, layout.size  # 12 values are shared in place of 24
(24, (4, 2), 12)

Institutions agree on a *law* (what a round sends, and how), and share a CKKS key that the coordinator never has.

>>> from dictpfl.common.ckks.keys import make_key
>>> from dictpfl.common.ckks.parameters import CKKSParameters
>>> from dictpfl.common.law.finishing import finish
>>> from dictpfl.common.law.round import Law, begin, seal_update
>>> from dictpfl.common.messages.protocol import RoundKind
>>> from dictpfl.common.protection import Encryption
>>> from dictpfl.common.rounds import Grid, Pruning
>>> parameters = CKKSParameters.choose(Encryption(), capacity=3)
>>> key = make_key(parameters)
>>> agreed = {"seed": bytes(32), "federation": bytes(32), "capacity": 3, "sample_cap": 100}
>>> law = Law(layout, Pruning(s=0.7, tau=3), Grid(), payload_bits=parameters.payload_bits, **agreed)

In a round, everybody derives the same *plan* from shared state: its mask says which values are sent. Institutions train
(here: later values move further), quantise the change to integers, pack several into a component, and *seal*. The
coordinator *adds* ciphertexts without a key. Each institution *opens* the sum and updates its shared state.

>>> from dictpfl.common.ckks.adding import WordSum
>>> from dictpfl.common.ckks.opening import CKKSOpener
>>> from dictpfl.common.ckks.sealing import CKKSSealer
>>> from dictpfl.common.law.ledger import Ledger
>>> nothing = np.zeros(0, dtype=np.int64)
>>> def one_round(state):
...     plan, adder, seeds = begin(law, state, RoundKind.UPDATE), WordSum(parameters.word_prime), []
...     for samples, speed in ((100, 0.01), (50, 0.02), (50, 0.03)):  # three institutions
...         ledger = Ledger(1, samples, train_loss=0.0, measured=0, loss=0.0, metric=0.0, codes=nothing)
...         sealable = seal_update(law, plan, law.weight(samples) * speed * np.arange(layout.size), ledger)
...         upload = CKKSSealer(key).seal(sealable.components)
...         seeds.append(upload.seed)
...         adder.add(adder.load(upload.words))
...     opened = CKKSOpener(key).open(adder.total(), seeds, sealable.components.size)
...     state, ledger = finish(law, state, plan, opened, nothing, contributors=3)
...     return state, plan.sent, ledger.samples

The mean is weighted by samples: (100 * 0.01 + 50 * 0.02 + 50 * 0.03) / 200 = 0.0175 times the index. The 8 of 12 values
(s) that moved least for three rounds (tau) are pruned; each is sent again with probability 1/2 (beta): here, 3 of them.

>>> state, sent, samples = one_round(law.start(np.zeros(layout.size)))
>>> sent, samples, float(np.abs(state.values - 0.0175 * np.arange(layout.size)).max()) < 1e-3
(12, 200, True)
>>> for _ in range(3):
...     state, sent, _ = one_round(state)
>>> sent
7
>>> (weight + dictionary.change(layout.unflatten(state.values)["layer"])).shape
(4, 6)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dictpfl.client.compress.cutting.axes import axes_of as axes
    from dictpfl.client.compress.cutting.shrink import shrink as cut
    from dictpfl.client.compress.distil import distil
    from dictpfl.client.compress.influence.layers import layer_influence
    from dictpfl.client.compress.influence.shares import sparsity_by_layer
    from dictpfl.client.compress.sparse.lua import Thresholds, learn_thresholds
    from dictpfl.client.compress.sparse.prune import Pruned, prune
    from dictpfl.client.data.samples import Dataset, Samples
    from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of
    from dictpfl.client.model.tokens.reducers.fastvid import fastvid
    from dictpfl.client.model.tokens.segments import segments
    from dictpfl.client.model.twin import Twin, decompose, merge
    from dictpfl.client.training.task import Task
    from dictpfl.client.training.tasks.causal_lm import CausalLM
    from dictpfl.client.training.tasks.classification import Classification
    from dictpfl.client.training.tasks.cox import Cox
    from dictpfl.client.training.tasks.discrete_survival import DiscreteSurvival
    from dictpfl.client.training.tasks.multi_label import MultiLabel
    from dictpfl.client.training.tasks.ordinal import Ordinal
    from dictpfl.client.training.tasks.regression import Regression
    from dictpfl.client.training.tasks.segmentation import Segmentation
    from dictpfl.client.training.tasks.tagging import TokenClassification
    from dictpfl.common.config import FederationConfig
    from dictpfl.common.errors import DictPFLError
    from dictpfl.common.law.budget import BudgetAllocator
    from dictpfl.common.law.experts import experts_by_layer
    from dictpfl.common.law.schedule import PruningSchedule
    from dictpfl.common.protection import Defences, Encryption, Privacy
    from dictpfl.common.rounds import Aggregation, Budget, Grid, Pruning, Scores, Selection, Tallies
    from dictpfl.common.settings import (
        Data,
        Decomposition,
        Distillation,
        Federation,
        Model,
        Narrow,
        Preprocessing,
        Pretrain,
        Sparsity,
        Tokens,
        Training,
    )
    from dictpfl.deploy.exports.evaluation import Evaluation
    from dictpfl.deploy.exports.objects import evaluate, export
    from dictpfl.deploy.exports.sparse import load_sparse
    from dictpfl.deploy.numbers import digits
    from dictpfl.deploy.runs.compared import Comparison
    from dictpfl.deploy.runs.record import RoundRecord
    from dictpfl.deploy.runs.run import Run
    from dictpfl.deploy.simulation.comparison import compare, configurations
    from dictpfl.deploy.simulation.simulate import simulate

_HOMES = {
    "Aggregation": "common.rounds",
    "Budget": "common.rounds",
    "BudgetAllocator": "common.law.budget",
    "CausalLM": "client.training.tasks.causal_lm",
    "Classification": "client.training.tasks.classification",
    "Comparison": "deploy.runs.compared",
    "Cox": "client.training.tasks.cox",
    "Data": "common.settings",
    "Dataset": "client.data.samples",
    "Decomposition": "common.settings",
    "Defences": "common.protection",
    "DictPFLError": "common.errors",
    "DiscreteSurvival": "client.training.tasks.discrete_survival",
    "Distillation": "common.settings",
    "Encryption": "common.protection",
    "Evaluation": "deploy.exports.evaluation",
    "Federation": "common.settings",
    "FederationConfig": "common.config",
    "Grid": "common.rounds",
    "Model": "common.settings",
    "MultiLabel": "client.training.tasks.multi_label",
    "Narrow": "common.settings",
    "Ordinal": "client.training.tasks.ordinal",
    "Preprocessing": "common.settings",
    "Pretrain": "common.settings",
    "Privacy": "common.protection",
    "Pruned": "client.compress.sparse.prune",
    "Pruning": "common.rounds",
    "PruningSchedule": "common.law.schedule",
    "Regression": "client.training.tasks.regression",
    "RoundRecord": "deploy.runs.record",
    "Run": "deploy.runs.run",
    "Samples": "client.data.samples",
    "Scores": "common.rounds",
    "Segmentation": "client.training.tasks.segmentation",
    "Selection": "common.rounds",
    "Sparsity": "common.settings",
    "Tallies": "common.rounds",
    "Task": "client.training.task",
    "Thresholds": "client.compress.sparse.lua",
    "TokenClassification": "client.training.tasks.tagging",
    "Tokens": "common.settings",
    "Training": "common.settings",
    "Twin": "client.model.twin",
    "axes": "client.compress.cutting.axes:axes_of",
    "compare": "deploy.simulation.comparison",
    "configurations": "deploy.simulation.comparison",
    "cut": "client.compress.cutting.shrink:shrink",
    "decompose": "client.model.twin",
    "digits": "deploy.numbers.digits:",
    "distil": "client.compress.distil",
    "evaluate": "deploy.exports.objects",
    "experts_by_layer": "common.law.experts",
    "export": "deploy.exports.objects",
    "fastvid": "client.model.tokens.reducers.fastvid",
    "layer_influence": "client.compress.influence.layers",
    "learn_thresholds": "client.compress.sparse.lua",
    "load_sparse": "deploy.exports.sparse",
    "merge": "client.model.twin",
    "prune": "client.compress.sparse.prune",
    "reduce_tokens": "client.model.tokens.install",
    "reduction_of": "client.model.tokens.install",
    "segments": "client.model.tokens.segments",
    "simulate": "deploy.simulation.simulate",
    "sparsity_by_layer": "client.compress.influence.shares",
}
"""Where each public name lives, and by what name where it has another there; nothing behind a colon: it is that module. Loaded when it is asked for: a coordinator imports `dictpfl.server` without torch."""

__all__ = [
    "Aggregation",
    "Budget",
    "BudgetAllocator",
    "CausalLM",
    "Classification",
    "Comparison",
    "Cox",
    "Data",
    "Dataset",
    "Decomposition",
    "Defences",
    "DictPFLError",
    "DiscreteSurvival",
    "Distillation",
    "Encryption",
    "Evaluation",
    "Federation",
    "FederationConfig",
    "Grid",
    "Model",
    "MultiLabel",
    "Narrow",
    "Ordinal",
    "Preprocessing",
    "Pretrain",
    "Privacy",
    "Pruned",
    "Pruning",
    "PruningSchedule",
    "Regression",
    "RoundRecord",
    "Run",
    "Samples",
    "Scores",
    "Segmentation",
    "Selection",
    "Sparsity",
    "Tallies",
    "Task",
    "Thresholds",
    "TokenClassification",
    "Tokens",
    "Training",
    "Twin",
    "axes",
    "compare",
    "configurations",
    "cut",
    "decompose",
    "digits",
    "distil",
    "evaluate",
    "experts_by_layer",
    "export",
    "fastvid",
    "layer_influence",
    "learn_thresholds",
    "load_sparse",
    "merge",
    "prune",
    "reduce_tokens",
    "reduction_of",
    "segments",
    "simulate",
    "sparsity_by_layer",
]


def __getattr__(name: str) -> Any:
    """The public name, imported from its home."""
    if name == "__version__":
        return version("dictpfl")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, colon, attribute = _HOMES[name].partition(":")
    module = importlib.import_module(f"{__name__}.{home}")
    found = module if colon and not attribute else getattr(module, attribute or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Public names, whether loaded yet or not."""
    return sorted({*globals(), *__all__})
