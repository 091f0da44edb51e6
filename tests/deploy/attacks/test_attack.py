"""Attacks on data work where something is readable; what is encrypted is held to checks that fail when encryption is wrong."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks.attack import Settings, attack, checks_of, unasked
from dictpfl.deploy.attacks.ciphertexts import OTHER, TOPICS, topic_of
from dictpfl.deploy.attacks.cli import show
from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.inversion import Effort
from dictpfl.deploy.attacks.methods import FINAL, FINAL_PRIVATE, SUBJECTS, chosen
from dictpfl.deploy.attacks.published import membership
from dictpfl.deploy.attacks.recorded import RecordedRun
from dictpfl.deploy.attacks.registry import Tools, attack_of
from dictpfl.deploy.attacks.results import Check, CiphertextCheck, Finding, PrivacyResults
from dictpfl.deploy.cli import app
from dictpfl.deploy.review.judged import judge
from tests.deploy.audit.test_planted import no_error_term, rejection_sampled, reused_encryption_of_zero
from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'click:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    ),  # torch's own forward mode
    pytest.mark.usefixtures("quiet"),
]
EXPERIMENT = ROOT / "experiments" / "privacy_digits.toml"
ONLY_WHERE_CONFIGURED = {"masks are those of the members' secrets", "noise of differential privacy"}
QUICK = {"data.limit": 300, "federation.participants": 5, "federation.rounds": 1}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[PrivacyResults, Path]:
    folder = tmp_path_factory.mktemp("attack")
    settings = Settings(
        methods=["fedml-he-30", "dictpfl", "dictpfl-collusion"], attacks=["labels", "closed-form"], victims=4, parts=("collusion",),
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


def test_pictures_of_training_samples_are_their_owner_s_alone(results: tuple[PrivacyResults, Path]) -> None:
    _, folder = results
    made = [folder / "pictures", *sorted((folder / "pictures").iterdir())]
    assert {path.suffix for path in made} == {"", ".png", ".npz"}
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_ciphertexts_are_checked_and_not_attacked(results: tuple[PrivacyResults, Path]) -> None:
    found, _ = results
    assert not [f for f in found.findings if f.method == "dictpfl" and f.adversary == "server"]
    assert {c.method for c in found.ciphertexts} == {"dictpfl"}
    assert {c.verdict for c in found.ciphertexts} == {"ok"}, "in a run this long every check can tell"
    assert {c.topic for c in found.ciphertexts} >= {topic.name for topic in TOPICS} - ONLY_WHERE_CONFIGURED


def test_each_line_of_the_audit_has_a_topic_that_says_what_failure_is_and_what_it_cannot_see(
    results: tuple[PrivacyResults, Path],
) -> None:
    for line in results[0].ciphertexts:
        topic = topic_of(line.what)
        assert topic is not OTHER, line.what
        assert line.topic == topic.name
    assert all(topic.fails and topic.unseen for topic in TOPICS)
    assert topic_of("a line that nobody has thought of") is OTHER


@pytest.mark.parametrize(
    ("plant", "topic"),
    [(reused_encryption_of_zero, "seeds are distinct"), (no_error_term, "noise has its law"), (rejection_sampled, "words are uniform")],
    ids=["reused encryption", "no error term", "rejection-sampled ciphertexts"],
)  # fmt: skip
def test_a_planted_fault_changes_what_the_command_says(
    plant: Callable[[pytest.MonkeyPatch], None], topic: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before, these three gave the same table as a sound run."""
    plant(monkeypatch)
    changes = [f for key, value in QUICK.items() for f in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(
        app, ["attack", str(EXPERIMENT), "--methods", "dictpfl", "--attacks", "none", "--parts", "none", "--out", str(tmp_path / "out"), *changes]
    )  # fmt: skip
    assert done.exit_code == 4, done.output
    assert "WRONG encryption" in done.output
    wrong = PrivacyResults.load(tmp_path / "out").wrong
    assert topic in {c.topic for c in wrong}, wrong


def test_batches_that_no_attack_is_checked_on_are_said() -> None:
    """Exit status 0 would say that attacks work on plaintext, which only single samples can show."""
    attacks = {"labels": attack_of("labels")}
    (said,) = unasked(attacks, [4, 16])
    assert "--batches 1" in said
    assert unasked(attacks, [1, 4]) == unasked({}, [4]) == []


def test_the_shared_key_opens_everything(results: tuple[PrivacyResults, Path]) -> None:
    (labels,) = [f for f in results[0].of("labels") if f.adversary == "collusion"]
    (opened,) = results[0].of("collusion")
    assert labels.verdict == opened.verdict == "succeeds"
    assert {d.outcome for d in results[0].detections} >= {"detected"}


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


def test_wrong_encryption_outranks_an_attack_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at once ended with 3, of which whoever waits for 4 heard nothing."""
    results = PrivacyResults(
        name="x", config={}, granted=[], seen=[], findings=[],
        checks=[Check(attack="DLG", metric="SSIM", required=0.6, found=0.1)],
        ciphertexts=[CiphertextCheck(topic=OTHER.name, method="dictpfl", what="seeds", count=1, verdict="FAILED")],
    )  # fmt: skip
    monkeypatch.setattr("dictpfl.deploy.attacks.attack.attack", lambda *_, **__: results)
    done = CliRunner().invoke(app, ["attack", str(EXPERIMENT), "--out", str(tmp_path)])
    assert done.exit_code == 4, done.output
    assert "BROKEN" in done.output
    assert "WRONG encryption" in done.output


def test_no_method_is_nothing_to_attack(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["attack", str(EXPERIMENT), "--methods", "none", "--out", str(tmp_path / "out")])
    assert "--methods 'none' names none" in str(done.exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__optimizer": "adam"}, "sgd"),
        ({"training__task": "regression"}, "classification"),
        ({"training__momentum": 0.5}, "momentum"),
        ({"training__warmup_steps": 2}, "warmup_steps is 2, expected 0"),
        ({"training__proximal": 0.1, "training__steps": 2}, r"proximal is 0\.1"),
        ({"training__task_options": {"class_weights": [1.0] * 10}}, "task_options"),
    ],
)
def test_what_is_not_simulated_is_refused(
    tiny: Callable[..., FederationConfig], plain_run: RecordedRun, changes: dict[str, object], message: str
) -> None:
    twin = plain_run._bench.twin_at(plain_run.auditor.sums[0].before, {})
    with pytest.raises(ConfigError, match=message):
        Matcher(twin, tiny(**changes).training)


def test_noise_that_stops_membership_is_not_an_attack_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one, with exit status 3: the check that has to succeed was asked of the federation that noise protects."""
    played: list[str] = []
    apart = np.linspace(0.0, 1.0, 50)

    def play(config: FederationConfig, _folder: Path) -> mock.MagicMock:
        played.append(config.privacy.mechanism)
        return mock.MagicMock()

    def told(_recorded: object, _final: object, label: str) -> list[Finding]:
        return [membership._finding("loss", "", label, {}, apart + (0.5 if played[-1] == "none" else 0.0), apart)]

    monkeypatch.setattr(membership, "play", play)
    monkeypatch.setattr(membership, "Workbench", mock.MagicMock())
    monkeypatch.setattr(membership, "membership", told)
    noise = {"privacy.mechanism": "institution", "privacy.noise_multiplier": 4.0, "pruning.enabled": False}
    private = FederationConfig.load(EXPERIMENT, noise)
    found = list(membership.Membership().run(private, tmp_path, Tools(Effort(), tmp_path)))
    assert played == ["none", "institution"]
    assert {f.method: f.verdict for f in found} == {FINAL: "succeeds", FINAL_PRIVATE: "no better than blind"}
    checks = checks_of(found)
    assert [check.met for check in checks] == [True]
    results = PrivacyResults(name="x", config={}, granted=[], seen=[], findings=found, checks=checks)
    for config, ours in ((private, FINAL_PRIVATE), (FederationConfig.load(EXPERIMENT), FINAL)):
        assert [line.finding.method for line in judge(results, config).lines if line.ours] == [ours]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        attack(EXPERIMENT, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_batch_that_no_attack_takes_is_refused(tmp_path: Path) -> None:
    settings = Settings(methods=["plaintext"], batches=[1, 4], attacks=["closed-form", "idlg"], parts=())
    with pytest.raises(ConfigError, match=r"--batches 4: no attack .* closed-form at most 1, idlg at most 1"):
        attack(EXPERIMENT, tmp_path / "out", settings)


def test_plaintext_is_always_attacked() -> None:
    assert [s.name for s in chosen(["dictpfl"])] == ["plaintext", "dictpfl"]
    with pytest.raises(ConfigError, match="expected some of"):
        chosen(["dictpfl", "rot13"])


def test_all_subjects_are_configurations() -> None:
    for subject in SUBJECTS.values():
        config = subject.config(EXPERIMENT, {})
        assert bool(config.insecurities) == (not subject.encrypted and subject.adversary == "server")


@pytest.mark.parametrize(
    "own", [{"defences.masks": True}, {"privacy.mechanism": "example", "privacy.epsilon": 8.0}], ids=["masks", "noise"]
)
def test_a_federation_of_one_s_own_protects_nothing_that_is_compared(own: dict[str, object]) -> None:
    """Masks and noise of the attacked configuration were refused beside plaintext, in words of settings that nobody had made."""
    for subject in SUBJECTS.values():
        config = subject.config(EXPERIMENT, own)
        assert FederationConfig.of(config.model_dump(mode="json")) == config
        kept = subject.encrypted or subject.adversary != "server"
        assert config.defences.masks == (kept and "defences.masks" in own)
        assert (config.privacy.mechanism == "example") == (kept and "privacy.mechanism" in own)


def test_masks_leave_an_institution_with_the_key_nothing_to_invert(tmp_path: Path) -> None:
    settings = Settings(methods=["dictpfl-collusion"], attacks=["closed-form"], parts=["collusion"])
    found = attack(EXPERIMENT, tmp_path, settings, overrides=QUICK | {"defences.masks": True})
    assert "dictpfl, coordinator and one institution together" in found.skipped[0]
    (finding,) = found.of("collusion")
    assert (finding.method, finding.verdict) == ("dictpfl, masks", "no better than blind")
    (sums, rounds) = (
        importlib.import_module(f"dictpfl.deploy.attacks.published.{name}") for name in ("sums", "rounds")
    )
    config = FederationConfig.load(EXPERIMENT, {"defences.masks": True})
    assert not sums.federation(config, 3, 1).defences.masks
    assert not rounds.federation(config, 2).defences.masks


def test_an_attack_that_fails_leaves_neither_runs_nor_a_folder_that_is_in_its_own_way(tmp_path: Path) -> None:
    settings = Settings(methods=["plaintext"], attacks=["closed-form"], parts=[])
    with (
        mock.patch("dictpfl.deploy.attacks.attack._overview", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        attack(EXPERIMENT, tmp_path / "a", settings, overrides=QUICK)
    assert list((tmp_path / "a").iterdir()) == []


def test_runs_beside_an_earlier_attack_are_left_alone(tmp_path: Path) -> None:
    """`--out .` where simulations lie in runs/, too."""
    summary = tmp_path / "runs" / "mine" / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text("a week of training")
    (tmp_path / "privacy.json").write_text("an earlier attack")
    settings = Settings(methods=["plaintext"], attacks=["closed-form"], parts=[])
    attack(EXPERIMENT, tmp_path, settings, overrides=QUICK)
    assert summary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "privacy.json", "runs"]


def test_several_steps_are_simulated_as_they_were_made(
    tiny: Callable[..., FederationConfig], plain_run: RecordedRun
) -> None:
    """Against plain SGD by hand: two steps of one image."""
    recorded = plain_run
    matcher = recorded.matcher(0)
    x = torch.randn(1, 2, 1, 1, 8, 8, dtype=torch.float64)
    y = torch.nn.functional.one_hot(torch.tensor([[[3], [7]]]), 10).double()
    twin = copy.deepcopy(recorded._bench.twin_at(recorded.auditor.sums[0].before, {}))
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
