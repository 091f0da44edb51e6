"""`run.predict`: arrays of any width, tokens with padding, and columns that the federation prepares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import dictpfl
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DataError, ModelError
from dictpfl.deploy.simulation.founding import TEST
from tests.support.federations import tiny

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dictpfl.Run:
    return dictpfl.simulate(tiny(federation__rounds=1), tmp_path_factory.mktemp("plain") / "run", engine="local")


def of_table(folder: Path, **changes: Any) -> dictpfl.Run:
    frame = pd.DataFrame({"age": RNG.normal(50, 10, 90), "sex": RNG.choice(["f", "m"], 90)})
    frame.assign(y=(frame["age"] > 50).astype(int)).to_csv(folder / "t.csv", index=False)
    data = {"source": "csv", "path": str(folder / "t.csv"), "label": "y", "limit": 0} | changes
    config = tiny(federation__rounds=1).model_dump(mode="json") | {"data": data}
    return dictpfl.simulate(FederationConfig.of(config), folder / "run", engine="local")


def test_floats_of_any_width_are_taken_by_the_batch(run: dictpfl.Run) -> None:
    features = RNG.normal(size=(150, 1, 8, 8))
    expected = run.model()(torch.tensor(features, dtype=torch.float32)).detach().numpy()
    for given in (features, torch.tensor(features), torch.tensor(features, requires_grad=True), features.tolist()):
        np.testing.assert_allclose(run.predict(given), expected, rtol=1e-4, atol=1e-5)
    assert run.predict(features[:0]).shape == (0, 10)
    with pytest.raises(DataError, match=r"shape \(3,\), the model takes \(1, 8, 8\)"):
        run.predict(np.zeros((2, 3)))
    with pytest.raises(DataError, match="give an array"):
        run.predict(pd.DataFrame({"a": [1.0]}))
    for odd in ([[1.0], [1.0, 2.0]], torch.zeros(2, 1, 8, 8).to_sparse()):
        with pytest.raises(DataError, match=r"features: cannot be read as an array: .*; expected an array or tensor"):
            run.predict(odd)
    with pytest.raises(DataError, match="3 values are masked; fill or drop those samples"):
        run.predict(np.ma.masked_less(np.arange(64.0).reshape(1, 1, 8, 8), 3))
    with pytest.raises(ModelError, match="as the federation's samples are"):
        run.predict(np.zeros((2, 1, 8, 8), int))


def test_whole_numbers_of_a_row_are_numbers(tmp_path: Path) -> None:
    """`run.predict([[63, 1]])` was refused for its type; pictures stay refused, whose whole numbers may be scaled otherwise."""
    run = of_table(tmp_path, exclude=["sex"])
    expected = run.predict(np.array([[63.0], [40.0]]))
    for given in ([[63], [40]], np.array([[63], [40]], np.int32), torch.tensor([[63], [40]])):
        np.testing.assert_array_equal(run.predict(given), expected)
    np.testing.assert_array_equal(run.predict(np.array([[True]])), run.predict(np.array([[1.0]])))
    with pytest.raises(ModelError, match=r"int64 and shape \(2,\)"):
        run.predict([[63, 7]])


class Words(nn.Module):
    """Outputs of each token, wrapped as transformers wraps them; an id that is not there is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        held = self.embed(input_ids) * attention_mask[..., None]
        return type("Answer", (), {"logits": self.head(held)})()


def test_padded_tokens_of_a_model_that_wraps_its_outputs(run: dictpfl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words().eval()
    monkeypatch.setattr(dictpfl.Run, "model", lambda _: words)
    ids = RNG.integers(0, 7, (70, 6))
    ids[:64, 3:], ids[64:, 5:] = -1, -1
    outputs = run.predict(ids)
    assert outputs.shape == (70, 5, 7)
    assert not outputs[:64, 3:].any()
    assert run.predict(ids[:0]).shape[::2] == (0, 7), "no sample, and no token that anybody could count"
    np.testing.assert_allclose(outputs[64:], words(torch.tensor(ids[64:, :5]), torch.ones(6, 5)).logits.detach())


def test_columns_are_prepared_as_the_federation_s_are(tmp_path: Path) -> None:
    run = of_table(tmp_path, preprocessing={"scale": "standard", "categories": {"sex": ["f", "m"]}})
    frame = pd.read_csv(tmp_path / "t.csv")
    table = Table.load(run.folder / TEST)
    assert len(table)
    spread = frame["age"].to_numpy()
    rows = [int(np.argmin(np.abs(spread - value))) for value in table.features[:, 0]]
    outputs = run.predict(table)
    np.testing.assert_allclose(run.predict(frame.iloc[rows]), outputs, rtol=1e-6)
    shares = (outputs.argmax(axis=1) == table.labels).mean()
    assert shares == pytest.approx(run.test)
    with pytest.raises(DataError, match="Expected a pandas frame with the columns age, sex as they stand"):
        run.predict(table.features)
    with pytest.raises(DataError, match="whether these are prepared, arrays do not say"):
        dictpfl.evaluate(run, (table.features, table.labels))
    assert dictpfl.evaluate(run, table).metric == pytest.approx(run.test)
    with pytest.raises(DataError, match="lacks the columns sex"):
        run.predict(frame[["age"]])
    assert run.predict(frame[:0]).shape == (0, 2)
    with pytest.raises(DataError, match="the frame has the columns age twice"):
        run.predict(pd.concat([frame, frame[["age"]]], axis=1))
    with pytest.raises(DataError, match=r"found a Series, .* such as frame\.iloc\[\[0\]\]"):
        run.predict(frame.iloc[0])


def test_columns_are_scaled_as_the_options_say(tmp_path: Path) -> None:
    run = of_table(tmp_path, exclude=["sex"], options={"scale": {"age": [50, 10]}})
    frame = pd.read_csv(tmp_path / "t.csv")
    scaled = ((frame[["age"]] - 50) / 10).to_numpy()
    np.testing.assert_allclose(run.predict(frame), run.predict(scaled), rtol=1e-6)
    np.testing.assert_allclose(run.predict(Samples(scaled, np.zeros(90, int))), run.predict(scaled))
