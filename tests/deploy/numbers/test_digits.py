"""`dictpfl.digits`: what a user of Python calls, in a process of its own, and loaded only when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dictpfl.deploy.numbers import digits

TYPED = """
import sys
import dictpfl
assert "torch" not in sys.modules and "dictpfl.deploy.numbers.digits" not in sys.modules, "loaded though nobody asked"
assert "digits" in dictpfl.__all__ and "digits" in dir(dictpfl)
found = dictpfl.digits.histogram(["0.10", "1,234", "12", "0"])
print(found.part("numbers")[0], found.part("zeros")[0])
print(sum(len(own) for own in dictpfl.digits.benchmark(1, 3).values()))

import tokenizers, transformers
vocabulary = {"[UNK]": 0, "\\n": 1} | {chr(c): c - 30 for c in range(32, 127)}
made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\\s\\S]"), "isolated")
made.decoder = tokenizers.decoders.Fuse()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
sizes = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(vocabulary), **sizes))
scores = dictpfl.digits.selectivity(model, tokenizer)
print(scores.shape, scores.dtype, bool((scores != dictpfl.digits.selectivity(model, tokenizer, gain=False)).any()))
outcome = dictpfl.digits.audit(model, tokenizer, tasks=("sums",), samples=2, shots=0)
print(outcome["reading"]["places"], outcome["asked"]["gain"])
"""


@pytest.mark.slow
def test_as_typed_in_an_empty_folder(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TYPED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, third, fourth = done.stdout.splitlines()
    assert (first, second) == ("3 1", "21")
    assert third == "(2, 10, 12) float64 False", "a norm of ones changes no rank"
    places, gain = fourth.split()
    assert int(places) >= 4
    assert gain == "True"


@pytest.mark.parametrize(
    ("numbers", "last"),
    [
        (["142", "157"], [2, 7]), ([142, 157], [2, 7]), (np.array([142, 157]), [2, 7]), (np.array([142.0, 157.0, np.nan]), [2, 7]),
        ([142.0, None, 157.0], [2, 7]), (np.array([14.3, 15.7], dtype=np.float32), [3, 7]), ([Decimal("1.50"), Decimal("2.25")], [0, 5]),
        (pd.Series([142, None, 157], dtype="Int64"), [2, 7]), (pd.Series([142.0, None, 157.0]), [2, 7]), (pd.Series(["1.50", None]), [0]),
        (pd.Series([14.3, 15.7], dtype=np.float32), [3, 7]), (np.float64([0.1 + 0.2, 1 / 3]), []), ([], []), ((str(n) for n in (142, 157)), [2, 7]),
    ],
)  # fmt: skip
def test_numbers_of_any_kind_are_counted(numbers: object, last: list[int]) -> None:
    found = digits.histogram(numbers)  # type: ignore[arg-type]
    assert np.repeat(np.arange(10), found.part("last")).tolist() == last
    assert [fit.what for fit in digits.fits(found)] == ["first", "second", "last"]
