"""`--set KEY=VALUE`: values as TOML has them, and text where it has none."""

from __future__ import annotations

from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.overrides import overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("[1, 2]", [1, 2]), ("{ a = true }", {"a": True}), ("word", "word"), ("", ""), ("2\nmore = 3", "2\nmore = 3"),
        ("[" * 9000, "[" * 9000), ("1" + "0" * 5000, "1" + "0" * 5000),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_value_is_all_that_was_typed(text: str, value: Any) -> None:
    assert overrides([f" a.b ={text}"]) == {"a.b": value}


@pytest.mark.parametrize("pair", ["seed", "=3", " =3"])
def test_a_pair_has_a_key(pair: str) -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        overrides([pair])


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed: .*found a number of more digits"):
        FederationConfig.of({}, overrides([f"seed=0x{'f' * 9000}"]))
