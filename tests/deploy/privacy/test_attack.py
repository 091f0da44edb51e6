"""Attacks work where nothing is encrypted, and find nothing where everything is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from common.config import FederationConfig
from common.errors import ConfigError
from deploy.cli import app
from deploy.privacy.attack import Settings, attack
from deploy.privacy.cli import show
from deploy.privacy.inversion import Effort
from deploy.privacy.matching import Matcher
from deploy.privacy.results import Check, PrivacyResults
from deploy.privacy.stage import Stage
from deploy.privacy.subjects import SUBJECTS, chosen

pytestmark = [
    pytest.mark.filterwarnings("ignore:'click:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    ),  # torch's own forward mode
    pytest.mark.usefixtures("quiet"),
]
EXPERIMENT = Path(__file__).parents[3] / "experiments" / "privacy_digits.toml"
QUICK = {"data.limit": 300, "federation.participants": 5, "federation.rounds": 1}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[PrivacyResults, Path]:
    folder = tmp_path_factory.mktemp("attack")
    settings = Settings(
        methods=["fedml-he-30", "dictpfl", "dictpfl-collusion"], attacks=["closed form"], victims=4, parts=("collusion",),
        effort=Effort(restarts=2),
    )  # fmt: skip
    return attack(EXPERIMENT, folder, settings, overrides=QUICK), folder


def test_plaintext_gives_images_and_labels_away(results: tuple[PrivacyResults, Path]) -> None:
    found, folder = results
    assert found.checks
    assert found.broken == []
    for finding in found.findings:
        if finding.method == "plaintext":
            assert finding.verdict == "succeeds", finding
    pictures = [f.picture for f in found.findings if f.picture]
    assert pictures
    assert all((folder / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_what_is_encrypted_gives_nothing_away(results: tuple[PrivacyResults, Path]) -> None:
    found, _ = results
    for finding in found.findings:
        if finding.method == "dictpfl" and finding.adversary == "server":
            assert finding.encrypted
            assert finding.verdict != "succeeds", (
                finding
            )  # keys are drawn anew: an interval would err one time in forty


def test_the_shared_key_opens_everything(results: tuple[PrivacyResults, Path]) -> None:
    (labels,) = [f for f in results[0].of("labels") if f.adversary == "collusion"]
    (opened,) = results[0].of("collusion")
    assert labels.verdict == opened.verdict == "succeeds"
    assert {d.outcome for d in results[0].detections} >= {"detected", "not detected"}


def test_no_run_and_no_key_is_left(results: tuple[PrivacyResults, Path]) -> None:
    _, folder = results
    assert sorted(path.name for path in folder.iterdir()) == ["pictures", "privacy.json"]
    assert PrivacyResults.load(folder) == results[0]


def test_a_broken_attack_is_no_privacy(tmp_path: Path) -> None:
    """A sign that is wrong finds nothing, on plaintext either: said, and not with exit status 0."""
    options = [f for key, value in QUICK.items() for f in ("--set", f"{key}={value}")]
    out, real = tmp_path / "out", Matcher.observed
    with mock.patch.object(Matcher, "observed", lambda *arguments: -real(*arguments)):
        done = CliRunner().invoke(
            app, ["attack", str(EXPERIMENT), "--methods", "plaintext", "--victims", "1", "--parts", "none", "--effort", "0.2", "--out", str(out), *options]
        )  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "BROKEN" in done.output
    assert {check.attack for check in PrivacyResults.load(out).broken} >= {"iDLG", "labels"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__optimizer": "adam"}, "sgd"),
        ({"training__task": "regression"}, "classification"),
        ({"training__momentum": 0.5}, "momentum"),
    ],
)
def test_what_is_not_simulated_is_refused(
    tiny: Callable[..., FederationConfig], plain_stage: Stage, changes: dict[str, object], message: str
) -> None:
    twin = plain_stage._bench.twin_at(plain_stage.auditor.sums[0].before, {})
    with pytest.raises(ConfigError, match=message):
        Matcher(twin, tiny(**changes).training)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        attack(EXPERIMENT, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_plaintext_is_always_attacked() -> None:
    assert [s.name for s in chosen(["dictpfl"])] == ["plaintext", "dictpfl"]
    with pytest.raises(ConfigError, match="expected some of"):
        chosen(["dictpfl", "rot13"])


def test_all_subjects_are_configurations() -> None:
    for subject in SUBJECTS.values():
        config = subject.config(EXPERIMENT, {})
        assert bool(config.insecurities) == (not subject.encrypted and subject.adversary == "server")


def test_several_steps_are_simulated_as_they_were_made(
    tiny: Callable[..., FederationConfig], plain_stage: Stage
) -> None:
    """Against plain SGD by hand: two steps of one image."""
    stage = plain_stage
    matcher = stage.matcher(0)
    x = torch.randn(1, 2, 1, 1, 8, 8, dtype=torch.float64)
    y = torch.nn.functional.one_hot(torch.tensor([[[3], [7]]]), 10).double()
    twin = copy.deepcopy(stage._bench.twin_at(stage.auditor.sums[0].before, {}))
    module = twin.module.double()
    parameters = [p for _, _, p in twin.trainable()]
    before = torch.cat([p.detach().flatten().clone() for p in parameters])
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[0, step]), y[0, step].argmax(dim=1)).backward()
        optimizer.step()
    after = torch.cat([p.detach().flatten() for p in parameters])
    torch.testing.assert_close(matcher.updates(x, y)[0], (before - after) / 0.1, rtol=1e-6, atol=1e-9)


def test_a_broken_attack_shows_what_it_reached() -> None:
    checks = [Check(attack="one", metric="SSIM", required=0.6, found=found) for found in (0.12, 0.98)]
    results = PrivacyResults(name="x", config={}, granted=[], seen=[], findings=[], checks=checks)
    console = Console(file=StringIO(), width=120)
    show(console, results)
    assert isinstance(console.file, StringIO)
    assert "0.12 BROKEN" in console.file.getvalue()
    assert "0.98\n" in console.file.getvalue().replace(" ", "")
