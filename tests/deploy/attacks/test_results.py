"""Results of attacks are read as they were written, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks.attack import _place
from dictpfl.deploy.attacks.results import RESULTS, Interval, PrivacyResults


def test_results_are_read_as_they_were_written(example_results: PrivacyResults, tmp_path: Path) -> None:
    example_results.save(tmp_path)
    assert PrivacyResults.load(tmp_path) == example_results
    verdicts = [f.verdict for f in example_results.findings]
    assert verdicts == ["succeeds", "no better than blind"]
    assert example_results.broken == []
    assert example_results.wrong == []


def test_one_trial_without_success_shows_nothing_either_way(example_results: PrivacyResults) -> None:
    """There is no interval of one figure, beyond which a guess would be better than blind."""
    gain = Interval(value=0.2, low=0.2, high=0.2)
    one = example_results.findings[1].model_copy(update={"trials": 1, "gain": gain})
    assert one.verdict == "not measured"
    assert one.model_copy(update={"trials": 2}).verdict == "better than blind"
    assert example_results.findings[0].model_copy(update={"trials": 1}).verdict == "succeeds"


def test_results_of_another_kind_are_refused(example_results: PrivacyResults, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dictpfl attack"):
        PrivacyResults.load(tmp_path)
    example_results.save(tmp_path)
    text = (tmp_path / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(text.replace("dictpfl-privacy-2", "dictpfl-privacy-9"))
    with pytest.raises(ConfigError, match="cannot use"):
        PrivacyResults.load(tmp_path)


def test_a_killed_attack_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    killed = _place(tmp_path / "out", keep=False)
    folder = killed.__enter__()
    (folder / "attacked" / "000").mkdir(parents=True)
    with _place(tmp_path / "out", keep=False) as again:
        assert [*again.glob("attacked/*")] == []
    assert [*again.iterdir()] == [], "what says whose folder it is goes with the rest"
    (tmp_path / "other" / "runs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no attack"), _place(tmp_path / "other", keep=False):
        pass
    assert (tmp_path / "other" / "runs").is_dir(), "somebody's own runs"
