"""What reducers are told: values of another kind, out of range, of another clip, or said twice."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

import dictpfl
from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.tokens.install import reduce_tokens
from dictpfl.client.model.tokens.reducers.autoprune import AutoPrune
from dictpfl.client.model.tokens.reducers.fastvid import FastVid
from dictpfl.client.model.tokens.reducers.simple import Grid, MergedPairs, dtm, salient
from dictpfl.client.model.tokens.seam import REDUCERS, make_reducer
from dictpfl.client.training.tally import TALLIES, source_of
from dictpfl.client.training.task import TASKS
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import Registry, _annotated
from dictpfl.common.settings import Tokens as Settings


@pytest.mark.parametrize(
    ("reducer", "options", "message"),
    [
        ("fastvid", {"c": "x"}, "tokens.options of 'fastvid': c = 'x'; expected a whole number"),
        ("fastvid", {"c": 2.5}, "c = 2.5; expected a whole number"),
        ("fastvid", {"tau": "high"}, "tau = 'high'; expected a finite number"),
        ("dtm", {"nearest": True}, "nearest = True; expected a whole number"),
        ("salient", {"salience": 1}, "salience = 1; expected a text"),
        ("autoprune", {"k": "steep"}, "tokens.options of 'autoprune': k = 'steep'; expected a finite number"),
        ("autoprune", {"x0": math.nan}, "x0 = nan; expected a finite number"),
        ("autoprune", {"x0": -1e9}, "x0 = -1000000000.0; expected -1000 to 1000"),
        ("autoprune", {"first": math.inf}, "first = inf; expected a finite number"),
        ("autoprune", {"merge": "no"}, "merge = 'no'; expected true or false"),
        ("autoprune", {"levels": 4.5}, "levels = 4.5; expected a whole number"),
    ],
)
def test_options_of_another_kind_say_so(reducer: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_reducer(Settings(reducer=reducer, keep=0.5, options=options))


def test_numbers_of_numpy_and_whole_numbers_are_numbers() -> None:
    """Counts of a curve are those of the same numbers of Python."""
    wanted = AutoPrune(0.5, k=0.25, x0=14.0, first=2.0).courses(8, 60, 4)
    assert AutoPrune(np.float64(0.5), k=np.float64(0.25), x0=14, first=2).courses(8, 60, 4) == wanted
    assert AutoPrune(np.float32(0.5), k=np.float32(0.25), x0=np.float64(14), first=2).courses(8, 60, 4) == wanted


def test_a_large_first_is_all_that_there_is() -> None:
    assert AutoPrune(0.5, first=1e308).courses(8, 60, 4)[0].left[0] == 60


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_keep_is_said_in_one_place(keep: float) -> None:
    with pytest.raises(ConfigError, match=r"keep = 0.1 stands beside tokens.keep = .*set tokens.keep \(--keep\)"):
        make_reducer(Settings(reducer="autoprune", keep=keep, options={"keep": 0.1}))


@pytest.mark.parametrize("make", [FastVid, AutoPrune, Grid, MergedPairs, salient, dtm])
@pytest.mark.parametrize("keep", [math.nan, None, 0.0, 1.5, -0.5, "half", True])
def test_shares_that_are_none_are_refused(make: Any, keep: Any) -> None:
    with pytest.raises(ConfigError, match=f"tokens.keep = {keep!r}; expected a share above 0, at most 1"):
        make(keep)
    make(1)


@pytest.mark.parametrize(
    ("keep", "more", "message"),
    [
        (2, {}, "keep: Input should be less than or equal to 1, found 2"),
        (0, {}, "keep: .*greater than 0"),
        (math.nan, {}, "keep: "),
        (0.5, {"apply": "never"}, "apply: .*found 'never'"),
    ],
)
def test_reduce_tokens_refuses_in_its_own_words(keep: float, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"reduce_tokens: {message}"):
        reduce_tokens(VitTiny((1, 8, 8), 3, dim=16, depth=4, patch=1), "autoprune", keep=keep, **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attention": (3, 9)}, r"attention \(3, 9\) is not of the tokens \(6, 9, 4\); expected \(6, 9\)"),
        ({"attention": (6, 8)}, r"attention \(6, 8\) is not of"),
        ({"attention": (6, 20)}, r"attention \(6, 20\) is not of"),
        ({"attention": (1, 6, 9)}, r"attention \(1, 6, 9\) is not of"),
        ({"frames": (3, 5)}, r"features of frames \(3, 5\) are not of the tokens \(6, 9, 4\); expected \(6,\)"),
        ({"frames": (6, 9, 5)}, "features of frames"),
        ({"frames": ()}, "features of frames"),
        ({"frames": (6, 0)}, "features of frames"),
        ({"hidden": (0, 9, 4)}, "at least 1 of each, found"),
        ({"hidden": (6, 0, 4)}, "at least 1 of each, found"),
        ({"hidden": (0, 6, 9, 4)}, "at least 1 of each, found"),
        ({"hidden": (2, 6, 9, 4), "attention": (6, 9)}, r"expected \(2, 6, 9\)"),
        ({"hidden": (2, 6, 9, 4), "frames": (3, 6, 5)}, r"expected \(2, 6\)"),
    ],
)
def test_what_is_of_another_clip_is_refused(given: dict[str, tuple[int, ...]], message: str) -> None:
    tensors = {name: torch.rand(shape) for name, shape in ({"hidden": (6, 9, 4)} | given).items()}
    with pytest.raises(ConfigError, match=f"fastvid: .*{message}"):
        dictpfl.fastvid(**tensors, keep=0.5)


@pytest.mark.parametrize("options", [{"keep": math.nan}, {"keep": None}, {"keep": 1.5}, {"c": "x"}, {"size": 3}])
def test_fastvid_refuses_options_as_a_configuration_does(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dictpfl.fastvid(torch.rand(6, 9, 4), **options)


def test_what_is_of_this_clip_is_taken() -> None:
    torch.manual_seed(0)
    hidden, frames, attention = torch.randn(2, 6, 9, 4), torch.rand(2, 6, 5), torch.rand(2, 6, 9)
    both, places = dictpfl.fastvid(hidden, frames, attention, keep=0.5)
    assert both.shape == (2, 24, 4)
    for clip in range(2):
        one, where = dictpfl.fastvid(hidden[clip], frames[clip], attention[clip], keep=0.5)
        torch.testing.assert_close(one, both[clip])
        assert torch.equal(where, places[clip])


@pytest.mark.parametrize("registry", [REDUCERS, MODELS, TALLIES, TASKS], ids=lambda registry: registry.kind)
def test_annotations_of_own_parts_are_found(registry: Registry[Any]) -> None:
    """Values are held against annotations only where all of a part's are there when it is called."""
    for name, part in registry.own().items():
        assert len(_annotated(part)) == len(inspect.signature(part).parameters), name


@pytest.mark.parametrize("samples", ["many", 10.5])
def test_options_of_tallies_are_held_before_a_federation_is_founded(samples: Any) -> None:
    with pytest.raises(ConfigError, match=f"tallies.options.layerif: samples = {samples!r}; expected a whole number"):
        source_of("layerif", {"samples": samples})
