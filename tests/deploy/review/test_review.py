"""The privacy report says what was found, what was not looked for, and nothing that the folder does not show."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dictpfl.client.keys.vault
from dictpfl.client.keys.epochs import home
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.attacks.results import Check
from dictpfl.deploy.ceremony.custody import HEAD, LOG, record
from dictpfl.deploy.ceremony.identity import Role, coordinator_signer, make_identity
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations.witness import Witness
from dictpfl.deploy.reports.exposure import exposure
from dictpfl.deploy.review.audited import audit_of
from dictpfl.deploy.review.checklist import checklist
from dictpfl.deploy.review.custody import logs
from dictpfl.deploy.review.differences import differences
from dictpfl.deploy.review.egress import Egress, egress
from dictpfl.deploy.review.judged import judge, labels_of
from dictpfl.deploy.review.page import write_review
from dictpfl.deploy.review.parties import Parties
from dictpfl.deploy.review.risks import Known
from dictpfl.deploy.review.settings import meanings
from dictpfl.deploy.review.spending import bounded
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.deploy.review.conftest import finding, interval, results
from tests.support.ceremonies import NAMES, Ceremony
from tests.support.federations import encrypted


class Text(HTMLParser):
    """The words of a page, its links, and how many scripts it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.scripts = 0
        self.feed(page.split("</style>")[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Text:
    return Text(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def without(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Text:
    return read(write_review(run.folder, tmp_path_factory.mktemp("plain") / "privacy.html"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "each had to succeed where nothing is encrypted"),
        ({"checks": [Check(attack="cosine", metric="SSIM", required=0.6, found=0.2)]}, "some did not work even where"),
        ({"checks": []}, "were not compared with what they find where nothing is encrypted"),
        ({"checks": [], "findings": []}, "Attacks are not in this document"),
    ],
)
def test_whether_attacks_were_compared_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Of batches of more than one sample, and of checks of ciphertexts alone, it said that attacks had failed where nothing is encrypted."""
    known = Known(None, masks=False, integrity=False, encrypted=True, least=3, simulated=True, judgement=None)
    answers = checklist(known, Egress({}, {}, (0, 0), None, {}, complete=False), [], results(**changes))
    assert said in next(one.answer for one in answers if one.question == "Were these protections tested?")
    results(**changes).save(tmp_path)
    page = read(write_review(tmp_path)).text
    assert said in page
    assert ("Each had to work where nothing is encrypted first" in page) == bool(results(**changes).checks)


def test_one_trial_is_not_said_to_be_a_broken_attack() -> None:
    """Of `dictpfl attack --victims 1` the report said that attacks had not worked even where nothing is encrypted."""
    plain, once = finding("plaintext", 0.95), finding("plaintext", 0.2, attack="dlg", trials=1)
    config = FederationConfig.of({"method": "plaintext", "toy_insecure": True})
    alone = judge(results(findings=[once]), config).card("server")
    assert (alone.mark, alone.basis) == ("open", "1 result does not count: one trial without success tells nothing.")
    assert "1 result does not count: one trial" in judge(results(findings=[plain, once]), config).card("server").basis
    broken = [Check(attack="dlg", metric="SSIM", required=0.6, found=0.2)]
    basis = judge(results(findings=[plain, once], checks=broken), config).card("server").basis
    assert basis.endswith("1 result does not count: the attack did not work even where nothing is encrypted.")


def test_without_attack_results_it_says_so_and_how_to_make_them(without: Text) -> None:
    assert "No attack results are in this folder" in without.text
    assert "dictpfl attack CONFIG.toml --out DIR/attack" in without.text
    assert without.text.count("Not measured") >= 3
    assert "Nothing measurable" not in without.text
    assert "The coordinator Ciphertexts, not audited" in without.text
    assert "no better than a guess" not in without.text


def test_it_carries_everything_and_runs_nothing(without: Text) -> None:
    assert without.scripts == 0
    anchors = {link[1:] for link in without.links if link.startswith("#")}
    assert [link for link in without.links if not link.startswith("#")] == []
    assert anchors <= without.ids
    assert "tiny <script>alert(1)</script>" in without.text


def test_what_was_seen_is_counted_from_the_recording(run: Run, without: Text) -> None:
    rounds = run.summary["rounds"] + 1  # the last one measures
    recorded = [*(run.folder / "coordinator" / "recording").iterdir()]
    assert len(recorded) == 8 * rounds + 1
    assert not any(path.stat().st_mode & 0o077 for path in recorded)
    assert "Counted from the recording" in without.text
    assert f"uploads, encrypted {8 * rounds}" in without.text
    assert f"sums, encrypted {rounds}" in without.text
    assert "single uploads of others, opened with the shared key" in without.text


def test_without_a_recording_it_is_counted_from_journal_and_diaries(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    shutil.rmtree(copy / "coordinator" / "recording")
    page = read(write_review(copy))
    assert "Single uploads were not recorded" in page.text
    assert "uploads, encrypted 32" in page.text
    assert "single uploads of others" not in page.text


def test_the_files_that_it_was_made_from_are_named(run: Run, without: Text) -> None:
    for name in ("institutions/institution-007/diary.jsonl", "coordinator/recording/events.jsonl"):
        assert f"{name} {(run.folder / name).stat().st_size:,}" in without.text
    assert "The coordinator's journal went into it, too" in without.text


def test_every_byte_of_every_institution_stands_in_the_record(run: Run, without: Text) -> None:
    record = egress(Parties.find(run.folder))
    assert len(record.flows) == 8
    assert [len(chunk) for chunk in record.chunks] == [6, 2]
    assert record.comparable == record.rounds == list(range(run.summary["rounds"] + 1))
    assert record.differing == []
    for name in record.flows:
        assert record.total(name).sent == run.summary["bytes"]["up"]
        assert f"{name}: sent" in without.text
    assert record.sent == 8 * run.summary["bytes"]["up"]
    assert "the coordinator's journal has the same number of bytes" in without.text


def test_what_goes_beside_uploads_left_the_institution_too(tmp_path: Path) -> None:
    """Signed manifests: the journal counts them, and said that diaries have another number."""
    config = encrypted(federation__rounds=1, defences__integrity=True)
    folder = simulate(config, tmp_path / "run", engine="local").folder
    record = egress(Parties.find(folder))
    assert record.comparable == [0, 1]
    assert record.differing == []


def test_an_institution_and_a_journal_that_do_not_agree(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    diary = copy / "institutions" / "institution-000" / "diary.jsonl"
    lines = [json.loads(line) for line in diary.read_text().splitlines()]
    for line in lines:
        line["bytes"] += line["event"] == "uploaded" and line["round"] == 1
    diary.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut off')
    assert egress(Parties.find(copy)).differing == [1]
    assert "In 1 of 4 comparable rounds ( 1 )" in read(write_review(copy)).text.replace("(1)", "( 1 )")
    assert "cannot be read" not in read(write_review(copy)).text, "a crash cuts off the last line"


def test_a_sum_of_uploads_that_no_diary_tells_of(run: Run, tmp_path: Path) -> None:
    """All institutions' folders are here, so that somebody's record is not whole: not to be passed over in silence."""
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    diary = copy / "institutions" / "institution-000" / "diary.jsonl"
    lines = [json.loads(line) for line in diary.read_text().splitlines()]
    kept = [line for line in lines if line["event"] != "uploaded" or line["round"] not in (1, 2)]
    diary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert egress(Parties.find(copy)).untold == [1, 2]
    said = "In rounds 1, 2 the coordinator's journal counts more uploads than the diaries of all institutions tell of"
    assert said in read(write_review(copy)).text
    shutil.rmtree(copy / "institutions" / "institution-001")
    assert egress(Parties.find(copy)).untold == [], "of the one that is not here nothing is known"
    assert egress(Parties.find(run.folder)).untold == []


def test_a_line_of_a_diary_that_is_nested_without_end(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    diary = copy / "institutions" / "institution-000" / "diary.jsonl"
    diary.write_text("[" * 100_000 + "\n" + diary.read_text())
    assert list(egress(Parties.find(copy)).damaged.values()) == [1]


def test_a_recording_with_a_size_that_is_none_is_counted_without_it(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    with (copy / "coordinator" / "recording" / "events.jsonl").open("a") as file:
        file.write('{"event": "asked", "node": 1, "at": 1.0, "bytes": "many"}\n')
    before, after = egress(Parties.find(run.folder)).messages, egress(Parties.find(copy)).messages
    assert before is not None
    assert after == (before[0] + 1, *before[1:])


def test_a_diary_that_was_damaged_is_said_to_be(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    first, second = (copy / "institutions" / f"institution-00{n}" / "diary.jsonl" for n in (0, 1))
    lines = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(b"".join([b"\x00" * 40 + b"\n", *lines[2:]]))
    second.unlink()
    second.mkdir()
    assert egress(Parties.find(copy)).damaged == {"site-1": 1, "site-2": 0}
    page = read(write_review(copy))
    assert "1 line of site-1's diary cannot be read" in page.text
    assert "site-2's diary cannot be read" in page.text


def test_findings_of_this_method_and_of_others(run: Run, attacked: Callable[..., Path], tmp_path: Path) -> None:
    page = read(write_review(run.folder, tmp_path / "p.html", attack=attacked()))
    assert "The coordinator Ciphertexts, not audited" in page.text
    assert "In runs of this method that were made for the attack, 1 of 1 checks hold." in page.text
    assert "It would fail for Two uploads name one seed" in page.text
    assert "1 of 1 of these checks hold dictpfl 1 ok" in page.text
    assert "Coordinator and an institution together 1 of 1 attacks succeed" in page.text
    assert "Another institution 1 of 1 attacks learn something" in page.text
    assert "Who holds the final model No result" in page.text
    assert "dictpfl (this federation)" not in page.text, "nothing of it is attacked but what insiders open"
    assert "plaintext (this federation)" not in page.text
    assert "add a number the coordinator not detected nothing model moves" in page.text
    assert "differs from this one in" in page.text
    assert len([link for link in page.links if link.startswith("data:image/png")]) == 2


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.folder, tmp_path / "run"))


@pytest.fixture
def audited(copied: Path) -> Path:
    """A run that was audited, by the command."""
    done = CliRunner().invoke(app, ["audit", "crypto", str(copied)])
    assert done.exit_code == 0, done.output
    lines = json.loads((copied / "audit.json").read_text())["checks"]
    told = sum(line["verdict"] == "ok" for line in lines)
    assert f"{told} of {len(lines)} lines hold, 0 failed" in done.output  # what cannot tell is not said to hold
    return copied


def test_no_more_is_said_than_was_checked(without: Text) -> None:
    assert "Not audited: run `dictpfl audit crypto RUN`." in without.text
    assert "Audited by" not in without.text
    assert "none at fault" not in without.text
    (access,) = re.findall(
        r"operator of the coordinator have access\? GDPR Art. 28, 32 ([a-z ]+) By design", without.text
    )
    assert access == "shown in part"


def test_an_audit_beside_the_run_is_told(audited: Path) -> None:
    page = read(write_review(audited))
    assert "Not audited" not in page.text
    assert "Audited by a second implementation:" in page.text
    assert re.search(r"none failed; \d cannot tell in a run of this size\.", page.text)
    assert "The coordinator Ciphertexts, checked in part" in page.text
    assert re.search(r"have access\? GDPR Art. 28, 32 shown in part By design not to values", page.text)
    assert "What sizes and times tell was not measured" in page.text
    assert "seeds are distinct over the run this run 32 ok" in page.text
    assert "audit.json" in page.text, "named among the evidence"


def test_what_every_check_could_tell_is_shown(audited: Path) -> None:
    """As in a run of 64 uploads and more."""
    path = audited / "audit.json"
    path.write_text(path.read_text().replace('"cannot tell"', '"ok"'))
    page = read(write_review(audited))
    assert "The coordinator Ciphertexts, none at fault" in page.text
    assert re.search(r"have access\? GDPR Art. 28, 32 shown here By design not to values", page.text)


def test_a_failed_audit_is_told_first(audited: Path) -> None:
    path = audited / "audit.json"
    report = json.loads(path.read_text())
    report["failed"] = 1
    next(check for check in report["checks"] if check["what"].startswith("seeds"))["verdict"] = "FAILED"
    path.write_text(json.dumps(report))
    page = read(write_review(audited))
    assert "The coordinator 1 checks of its ciphertexts FAILED" in page.text
    assert "1 FAILED, first: seeds are distinct over the run" in page.text
    assert re.search(r"have access\? GDPR Art. 28, 32 not met", page.text)


def test_an_audit_with_a_verdict_that_there_is_not_is_refused(tmp_path: Path) -> None:
    line = {"what": "seeds are distinct over the run", "count": 3, "verdict": "OK", "detail": ""}
    report = {"format": "dictpfl-audit-1", "run": "run", "federation": "00" * 32, "failed": 0, "checks": [line]}
    (tmp_path / "audit.json").write_text(json.dumps(report))
    with pytest.raises(ConfigError, match=r"audit\.json: .*a verdict 'OK', expected one of ok, FAILED, cannot tell"):
        assert audit_of(tmp_path, bytes(32)).sentence


@pytest.mark.parametrize(("said", "verdict"), [(1, "ok"), (0, "FAILED")])
def test_an_audit_whose_lines_are_not_those_that_it_counts_is_refused(said: int, verdict: str, tmp_path: Path) -> None:
    """A line that failed and was taken out, or one that was put in, must not read as an audit."""
    line = {"what": "seeds are distinct over the run", "count": 3, "verdict": verdict, "detail": ""}
    report = {"format": "dictpfl-audit-1", "run": "run", "federation": "00" * 32, "failed": said, "checks": [line]}
    (tmp_path / "audit.json").write_text(json.dumps(report))
    with pytest.raises(ConfigError, match=rf"audit\.json: .*{1 - said} lines that failed, and counts {said}"):
        audit_of(tmp_path, bytes(32))


def test_an_audit_that_is_older_than_an_upload_does_not_count(audited: Path) -> None:
    newest = max((audited / "coordinator" / "recording").glob("*.upload"))
    os.utime(newest, (2**31, 2**31))
    page = read(write_review(audited))
    assert (
        "Not audited: run `dictpfl audit crypto RUN` (audit.json is older than the run's newest upload)." in page.text
    )
    assert "none at fault" not in page.text


def test_an_audit_of_another_federation_does_not_count(audited: Path) -> None:
    file = audited / "audit.json"
    outcome = json.loads(file.read_bytes())
    other = {**outcome, "federation": "00" * 32}
    unsaid = {key: value for key, value in outcome.items() if key != "federation"}
    for wrong in (other, unsaid):
        file.write_text(json.dumps(wrong))
        page = read(write_review(audited))
        assert "Not audited: run `dictpfl audit crypto RUN` (audit.json is not of this federation" in page.text
    file.write_text(json.dumps(outcome))
    assert "Not audited" not in read(write_review(audited)).text


def test_a_file_that_no_audit_wrote_is_refused(copied: Path) -> None:
    (copied / "audit.json").write_text('{"failed": 0}')
    with pytest.raises(ConfigError, match="again with this release"):
        write_review(copied)


def test_pictures_can_be_left_out(run: Run, attacked: Callable[..., Path], tmp_path: Path) -> None:
    page = read(write_review(run.folder, tmp_path / "p.html", attack=attacked(), pictures=False))
    assert not any(link.startswith("data:") for link in page.links)
    assert "left out" in page.text


def test_pictures_come_from_the_attack_only(run: Run, attacked: Callable[..., Path], tmp_path: Path) -> None:
    folder = attacked()
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    (folder / "pictures" / "plaintext.png").write_bytes(b"no picture")
    text = (folder / "privacy.json").read_text().replace('"dictpfl.png"', '"../../secret.png"')
    (folder / "privacy.json").write_text(text)
    page = read(write_review(run.folder, tmp_path / "p.html", attack=folder))
    assert not any(link.startswith("data:") for link in page.links)


def test_a_broken_attack_is_no_protection(run: Run, attacked: Callable[..., Path], tmp_path: Path) -> None:
    broken = Check(attack="cosine", metric="SSIM", required=0.6, found=0.2)
    page = read(write_review(run.folder, tmp_path / "p.html", attack=attacked(checks=[broken])))
    assert "Some attacks did not work" in page.text
    assert "The coordinator Ciphertexts, not audited" in page.text
    assert "Nothing measurable" not in page.text
    assert "no result: attack broken" in page.text


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, {"dictpfl", "dictpfl, padded to steps", "dictpfl without pruning"}),
        ({"encryption.pad_to": "none"}, {"dictpfl", "dictpfl, not padded", "dictpfl without pruning"}),
        ({"pruning.enabled": False}, {"dictpfl without pruning"}),
        ({"encryption.sealer": "identity", "toy_insecure": True}, {"dictpfl, NOT encrypted", "dictpfl, NOT encrypted, pruned round"}),
        ({"method": "fedhe-full"}, {"FedHE-Full"}),
        ({"method": "plaintext", "toy_insecure": True}, {"plaintext"}),
    ],
)  # fmt: skip
def test_which_findings_are_of_a_federation(changes: dict[str, object], labels: set[str]) -> None:
    assert labels_of(FederationConfig.of({}, changes)) == labels


def test_masks_off_says_nothing_of_masks_on(attacked: Callable[..., Path]) -> None:
    from dictpfl.deploy.attacks.results import PrivacyResults

    results = PrivacyResults.load(attacked())
    assert judge(results, FederationConfig.of({})).card("collusion").mark == "bad"
    assert judge(results, FederationConfig.of({}, {"defences.masks": True})).card("collusion").mark == "open"


@pytest.mark.parametrize(
    ("changes", "card"),
    [
        ({}, "No result"),
        ({"defences.masks": True}, "No result"),
        ({"tallies.opening": ["classes"]}, "1 of 1 attacks succeed"),
        ({"tallies.opening": ["classes"], "defences.masks": True}, "Nothing measurable"),
    ],
)
def test_an_attack_on_what_a_federation_has_not_is_none_on_it(changes: dict[str, object], card: str) -> None:
    """`dictpfl attack` tries tallies by default, with masks and without, whatever is attacked."""
    tally: dict[str, Any] = {
        "family": "collusion",
        "attack": "open a tally",
        "adversary": "collusion",
        "needs": "tallies",
    }
    found = [finding("dictpfl", 1.0, **tally), finding("dictpfl, masks", 0.3, gain=interval(0.0), **tally)]
    judged = judge(results(findings=found), FederationConfig.of({}, changes))
    assert judged.card("collusion").headline == card


@pytest.mark.parametrize(
    ("limit", "epsilon", "words"),
    [
        (8.0, 7.9, "epsilon 8 at delta 1e-05 (7.90 is spent so far)"),
        (5000.0, 4321.0, "epsilon 5000 at delta 1e-05 (4321.00 is spent so far)"),
        (0.0, 4321.0, "no limit of epsilon at delta 1e-05 (4321.00 is spent so far)"),
    ],
)
def test_a_promise_of_privacy_has_its_epsilon_and_is_no_better_than_that(
    run: Run, tmp_path: Path, limit: float, epsilon: float, words: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["privacy"] |= {"mechanism": "example", "epsilon": limit, "noise_multiplier": 0.1, "figures": True}
    (copy / "config.json").write_text(json.dumps(config))
    summary = json.loads((copy / "summary.json").read_text())
    summary["privacy"] = {"mechanism": "example", "epsilon": epsilon, "delta": 1e-5, "limit": limit or None, "steps": 3}
    (copy / "summary.json").write_text(json.dumps(summary))
    text = read(write_review(copy)).text
    small = limit == 8.0
    assert text.count(words) >= 2
    assert f"The finished model gives something away {'reduced' if small else 'remains'}" in text
    assert re.search(
        rf"privacy\.epsilon \S+( limit)? Bounded by [^|]*?2023\)\. {'privacy' if small else 'yes privacy'}\.delta", text
    )
    assert "Losses and validation figures are sent exact" in text


def test_a_federation_without_noise_is_said_to_have_none(without: Text) -> None:
    assert "privacy.mechanism none No noise is added" in without.text


def test_an_account_that_is_not_here_is_not_one_of_nothing() -> None:
    config = FederationConfig.of({"privacy": {"mechanism": "example", "epsilon": 8.0}})
    assert "what is spent is not known" in bounded(config, None)
    assert "0.00 is spent" in bounded(config, 0.0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"training.accumulate": 1},
            "A round trains on 4 samples an institution, no more than the rank of its tables (4)",
        ),
        ({"training.accumulate": 2}, "Samples that an update mixes in a step"),
        ({"decomposition.enabled": False}, "Samples that an update mixes in a step"),
    ],
)
def test_few_samples_a_round_are_those_of_all_batches(said: dict[str, Any], words: str) -> None:
    config = FederationConfig.of({"training": {"steps": 1, "batch_size": 4}}, said)
    (meaning,) = [line.meaning for line in meanings(config, None) if line.name == "training.batch_size"]
    assert meaning.startswith(words)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"training.metrics": ["auroc"]}, "training.metrics"), ({"scores.decision": "mine:Choice"}, "scores"),
        ({"tallies.opening": ["classes"]}, "tallies"), ({"data.preprocessing.scale": "standard"}, "data.preprocessing"),
    ],
)  # fmt: skip
def test_each_kind_of_exact_sum_is_among_the_settings(said: dict[str, Any], name: str) -> None:
    """What a site's policy counts as tallies (`policy.toml`), a reviewer is told of."""
    assert [line.mark for line in meanings(FederationConfig.of({}, said), None) if line.name == name] == ["caution"]
    assert name not in {line.name for line in meanings(FederationConfig.of({}), None)}


def test_differences_between_the_attacked_federation_and_this() -> None:
    config = FederationConfig.of({}, {"training.batch_size": 8, "name": "a"})
    attacked = FederationConfig.of({}, {"training.batch_size": 1, "name": "b", "method": "dictpfl"})
    assert differences(config, attacked.model_dump(mode="json")) == [("training.batch_size", "8", "1")]
    assert differences(config, config.model_dump(mode="json")) == []


def test_an_insecure_run_is_not_called_protected(tmp_path: Path) -> None:
    from dictpfl.deploy.simulation.simulate import simulate

    run = simulate(
        encrypted(method="plaintext", toy_insecure=True, federation__rounds=1),
        tmp_path / "run",
        engine="local",
        record=True,
    )
    page = read(write_review(run.folder))
    assert "Insecure federation" in page.text
    assert "Updates, or parts of them, reach it unencrypted" in page.text
    assert "Yes: it reads what is not encrypted." in page.text
    assert "uploads, in clear" in page.text


def test_an_attack_alone(attacked: Callable[..., Path]) -> None:
    page = read(write_review(attacked()))
    assert "An attack's results without a run" in page.text
    assert "Counted from the recording of the attacked run" in page.text
    assert "Neither a journal nor a diary is in this folder." in page.text


@pytest.mark.parametrize("what", ["empty", "file", "missing attack"])
def test_folders_that_hold_nothing_are_refused(run: Run, tmp_path: Path, what: str) -> None:
    if what == "missing attack":
        with pytest.raises(ConfigError, match="dictpfl attack"):
            write_review(run.folder, tmp_path / "p.html", attack=tmp_path)
        return
    place = tmp_path / "x"
    place.write_text("") if what == "file" else place.mkdir()
    with pytest.raises(ConfigError, match=r"no folder|holds neither"):
        write_review(place)


def test_the_command_writes_both_reports(run: Run, tmp_path: Path) -> None:
    for options, name in ((["--privacy"], "privacy.html"), ([], "report.html")):
        out = tmp_path / name
        done = CliRunner().invoke(app, ["report", str(run.folder), "-o", str(out), *options])
        assert done.exit_code == 0, done.output
        assert out.exists()
    assert (tmp_path / "report.html").read_text().split("Measured")[0] == (
        run.folder / "report.html"
    ).read_text().split("Measured")[0]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of all parties after three rounds, as a ceremony leaves them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dictpfl.client.keys.vault, "_COST", {"iterations": 1, "lanes": 1, "memory_kib": 64})
        made = Ceremony.found(tmp_path_factory.mktemp("deployed"))
        made.hand_over()
        for name in NAMES:
            made.join(name)
            made.give_data(name)
        made.run(NAMES)
        Witness(made.coordinator, coordinator_signer(made.coordinator)).look()
        shutil.rmtree(made.root / "institutions")
        yield made.root


def test_a_deployment_with_all_folders(deployed: Path, tmp_path: Path) -> None:
    page = read(write_review(deployed, tmp_path / "p.html"))
    assert "A deployment, as far as the folders" in page.text
    assert "founded the federation and made its key" in page.text
    assert "closed rounds 0 to 3 3 institutions in a sum" in page.text
    assert page.text.count("order, chain, signatures and end hold") == 5
    assert "berlin: sent" in page.text
    assert "Custody logs of 5 parties, signed and chained, were verified." in page.text


def test_a_coordinators_folder_alone(deployed: Path, tmp_path: Path) -> None:
    page = read(write_review(deployed / "coordinator", tmp_path / "p.html"))
    assert "Only a coordinator's folder is here" in page.text
    assert "single institutions are not told apart" in page.text
    assert "berlin: sent" not in page.text


def test_an_institutions_folder_alone(deployed: Path, tmp_path: Path) -> None:
    page = read(write_review(deployed / "berlin", tmp_path / "p.html"))
    judged = exposure(Genesis.load(home(deployed / "berlin")), [deployed / "berlin"])
    assert judged is not None
    assert judged.verdict in page.text
    assert "Their number is not said here" in page.text
    assert f"{judged.distinct:,} distinct" not in page.text
    assert "berlin: sent" in page.text
    assert "kyoto: sent" not in page.text
    assert "coordinator got" not in page.text


def test_rounds_that_a_log_does_not_have_are_not_said_to_be_closed(tmp_path: Path) -> None:
    """After a journal was lost and rounds went on from the institutions' state; and what a coordinator signs is not always its form."""
    signer = make_identity(tmp_path, "coordinator", Role.COORDINATOR, b"six random words, chosen by dice")
    for number in (0, 1, 5, 6, 6):
        record(tmp_path, signer, "round closed", round=number, contributors=3)
    record(tmp_path, signer, "round closed", round="7", contributors=[])
    record(tmp_path, signer, "round closed")
    (log,) = logs(tmp_path)
    assert log.whole
    assert [(entry.what, entry.details) for entry in log.entries] == [
        ("closed rounds 0 to 1", "3 institutions in a sum"),
        ("closed rounds 5 to 6", "3 institutions in a sum"),
        ("closed round 6", "3 institutions in a sum"),
        ("round closed", "contributors ; round 7"),
        ("round closed", ""),
    ]


def test_a_custody_log_that_was_altered(deployed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "all"
    shutil.copytree(deployed, copy)
    log = copy / "berlin" / LOG
    log.write_bytes(log.read_bytes().replace(b"bundle opened", b"bundle  opened"))
    (copy / "oslo" / HEAD).unlink()
    found = {one.party: one for one in logs(copy)}
    assert [name for name, one in found.items() if not one.whole] == ["berlin", "oslo"]
    page = read(write_review(copy))
    assert page.text.count("does not hold") == 2
    assert "A custody log was altered, cut, or is not readable" in page.text
    assert str(tmp_path) not in page.text


def test_no_secret_and_no_path_of_the_machine_stands_in_it(deployed: Path, run: Run, tmp_path: Path) -> None:
    for folder in (deployed, run.folder):
        text = write_review(folder, tmp_path / "p.html").read_text(encoding="utf-8")
        assert str(folder) not in text
        assert "PRIVATE KEY" not in text
    assert "six random words" not in text
