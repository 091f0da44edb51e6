"""The audit of runs that its own implementation fabricated: nothing is wrong in them, and each planted fault is told."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError, JournalError
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.audit.checks.check import Check
from dictpfl.deploy.audit.replay.agreement import Agreement
from dictpfl.deploy.audit.replay.plan import Plan
from dictpfl.deploy.audit.replay.state import State
from dictpfl.deploy.cli import app
from tests.deploy.audit.fabricated import Maker, Member, config


def failed(run: Path) -> list[Check]:
    return [check for check in audited(run) if check.failed]


RUNS = {
    "plain": Maker(),
    "masks": Maker(config(defences={"masks": True})),
    "an upload too late": Maker(
        config(defences={"masks": True}, federation={"min_participants": 2}), missing=((1, 2),)
    ),
    "identity": Maker(config(encryption={"sealer": "identity"})),
    "padded in steps": Maker(config(encryption={"pad_to": "steps"})),
    "padded in full": Maker(config(encryption={"pad_to": "full"})),
    "one threshold a tensor": Maker(config(pruning={"scope": "tensor"})),
    "equation 4 as printed": Maker(config(pruning={"window": "literal", "tau": 1, "beta": 0.8}), rounds=6),
    "theta over all, as printed": Maker(
        config(pruning={"threshold": "all", "quantile": "printed", "tau": 1}), rounds=6
    ),
    "pruned for good": Maker(config(pruning={"reactivation": False, "tau": 1}), rounds=6),
    "sensitive values only": Maker(config(encryption={"sealed_share": 0.3}), scores=(0,)),
    "sensitive values by name, scored twice": Maker(
        config(encryption={"sealed_share": 0.3}, scores={"decision": "clear-least", "rounds": 2}), scores=(0, 1)
    ),
    "scores anew": Maker(config(encryption={"sealed_share": 0.3, "rescore_every": 2}), rounds=7, scores=(0, 3, 6)),
    "scores anew, once more": Maker(
        config(encryption={"sealed_share": 0.3, "rescore_every": 2}), rounds=6, scores=(0, 3, 4)
    ),
    "noise": Maker(
        config(privacy={"mechanism": "institution", "max_update_norm": 0.05, "noise_multiplier": 1.0, "curious": 1})
    ),
    "refreshes": Maker(config(decomposition={"refresh_every": 2}), rounds=6),
    "refreshes at a stall": Maker(
        config(decomposition={"refresh_every": 1, "refresh_when": "stall-tensor", "refresh_stall": 0.99}), rounds=6
    ),
    **{
        rule: Maker(config(aggregation={"rule": rule, "rate": 0.1}, decomposition={"refresh_every": 2}))
        for rule in ("momentum", "adagrad", "adam", "yogi")
    },
    "few bits in the first round": Maker(config(grid={"value_bits": 2, "first_bits": 5})),
    "ranks that grow": Maker(config(decomposition={"refresh_every": 2, "refresh_ranks": [1, 4]}), rounds=6),
}


VOTES: dict[str, object] = {
    "name": "votes", "when": "opening", "weight": "none", "bound": 6, "fraction": 4, "layout": [["v", [5], "dense"], ["n", [1], "dense"]],
}  # fmt: skip
LAST: dict[str, object] = {**VOTES, "name": "last", "when": "closing"}
TALLIED = config(federation={"rounds": 2})
RUNS |= {
    "tallies": Maker(TALLIED, rounds=5, scores=(0, 1, 4), tallies=(VOTES, {**VOTES, "name": "more"}, LAST)),
    "tallies behind sensitive values": Maker(
        config(federation={"rounds": 2}, encryption={"sealed_share": 0.3}),
        rounds=5,
        scores=(0, 1, 4),
        tallies=(VOTES, LAST),
    ),
}


class MoreThanAgreed(Maker):
    """The last member seals more than it may, within the sum's bound."""

    def tallied(self, member: Member, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, 1025) if member.number == 2 else np.zeros_like(values)


def test_a_tally_beyond_its_bound_is_told(tmp_path: Path) -> None:
    (check,) = failed(MoreThanAgreed(TALLIED, rounds=3, scores=(0,), tallies=(VOTES,)).make(tmp_path / "run"))
    assert check.detail == "1 wrong; first: 000002.upload: an integer of tally 'votes' beyond 1024"


class MoreThanAllMay(Maker):
    """The last member seals so much that the sum shows it: a round that institutions pass over."""

    def tallied(self, member: Member, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, 3073) if member.number == 2 else np.zeros_like(values)


def test_a_sum_beyond_all_bounds_is_void_in_the_replay(tmp_path: Path) -> None:
    made = MoreThanAllMay(TALLIED, rounds=1, scores=(0,), tallies=(VOTES,)).make(tmp_path / "run")
    details = [check.detail for check in failed(made)]
    assert "1 wrong; first: round 0: sums of tally 'votes' beyond 3 times 1024" in details


class FewerThanNone(Maker):
    """One that counts below zero, of a tally that columns are prepared by."""

    def tallied(self, member: Member, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, -1) if member.number == 2 else np.zeros_like(values)


@pytest.mark.parametrize(("name", "wrong"), [("quantiles", True), ("votes", False)])
def test_negative_counts_of_columns_are_void_in_the_replay(name: str, wrong: bool, tmp_path: Path) -> None:
    made = FewerThanNone(TALLIED, rounds=1, scores=(0,), tallies=({**VOTES, "name": name},)).make(tmp_path / "run")
    details = [check.detail for check in failed(made)]
    assert ("1 wrong; first: round 0: counts of tally 'quantiles' below zero" in details) == wrong


class OtherSums(Maker):
    """A memory whose tally is not that of the sums."""

    def remembered(self, member: Member, state: State) -> State:
        (one,) = state.tallies
        return replace(state, tallies=(replace(one, sums=one.sums + (member.number == 1)),))


def test_a_memory_with_another_tally_is_told(tmp_path: Path) -> None:
    (check,) = failed(OtherSums(TALLIED, rounds=2, scores=(0,), tallies=(VOTES,)).make(tmp_path / "run"))
    assert "hospital-1: another state before round 2" in check.detail


@pytest.mark.parametrize(("scores", "first"), [((), 0), ((0, 2), 2), ((0, 3), 4)])
def test_tallies_in_other_rounds_than_agreed_are_told(scores: tuple[int, ...], first: int, tmp_path: Path) -> None:
    """An opening one left out, a closing one before the last update, or an update after it."""
    made = Maker(TALLIED, rounds=5, scores=scores, tallies=(VOTES, LAST))
    details = [check.detail for check in failed(made.make(tmp_path / "run"))]
    kind = "score" if first in scores else "update"
    assert any(f"round {first}: {kind}, which the agreement does not provide for here" in detail for detail in details)


@pytest.mark.parametrize("name", RUNS)
def test_run_without_fault_passes(name: str, tmp_path: Path) -> None:
    assert failed(RUNS[name].make(tmp_path / "run")) == []


def test_void_round_is_replayed_and_its_upload_told(tmp_path: Path) -> None:
    (check,) = failed(Maker(void=(1,)).make(tmp_path / "run"))
    assert check.detail.startswith("1 wrong; first: 000003.upload: a ledger of 1 participants, -100000 samples")


class Idle(Maker):
    """An institution that has nothing to learn of: it sends what it owes, with weight 0 (docs/threat-model.md)."""

    def _components(self, agreement: Agreement, member: Member, made: Plan, number: int) -> np.ndarray:
        components = super()._components(agreement, member, made, number)
        components[1] *= member.number > 0
        return components


def test_an_upload_of_no_samples_passes(tmp_path: Path) -> None:
    assert failed(Idle().make(tmp_path / "run")) == []


@pytest.mark.parametrize(("scores", "first"), [((0,), 3), ((0, 2), 2), ((), 0), ((0, 1), 1)])
def test_rounds_of_another_kind_than_agreed_are_told(scores: tuple[int, ...], first: int, tmp_path: Path) -> None:
    """Scores left out, where they are due after every second update, or sent where they are not."""
    made = Maker(config(encryption={"sealed_share": 0.3, "rescore_every": 2}), scores=scores)
    (check,) = failed(made.make(tmp_path / "run"))
    kind = "score" if first in scores else "update"
    assert f"round {first}: {kind}, which the agreement does not provide for here" in check.detail


STOPPED = {"by": "loss", "patience": 1, "min_delta": 100.0}


def test_an_update_after_all_had_agreed_to_stop_is_told(tmp_path: Path) -> None:
    """The second measurement is no progress; from then on institutions refuse updates, and so does the replay."""
    (check,) = failed(Maker(config(selection=STOPPED), rounds=4).make(tmp_path / "run"))
    assert "2 wrong; first: round 2: update, which the agreement does not provide for here" in check.detail


def test_scores_anew_after_all_had_agreed_to_stop_are_told(tmp_path: Path) -> None:
    said = config(selection=STOPPED, encryption={"sealed_share": 0.3, "rescore_every": 2})
    (check,) = failed(Maker(said, rounds=4, scores=(0, 3)).make(tmp_path / "run"))
    assert "1 wrong; first: round 3: score, which the agreement does not provide for here" in check.detail


@pytest.mark.parametrize(
    ("key", "value"), [("federation", "00" * 32), ("fingerprint", "00" * 32), ("parameters", {"word_bits": 53})]
)
def test_another_genesis_of_one_institution_is_told(key: str, value: object, tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    path = run / "institutions" / "institution-001" / "genesis.json"
    document = json.loads(path.read_text())
    document[key] = {**document[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    (check,) = failed(run)
    assert check.detail == "1 wrong; first: institution-001: another genesis"


@pytest.mark.parametrize("place", [(1, 0), (1, 1), (1, 2), (2, 0), "sha256"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_another_list_of_members_is_told(place: object, everywhere: bool, tmp_path: Path) -> None:
    """A name, a key to receive with, or one to sign with, at one institution or at all."""
    run = Maker(rounds=1).make(tmp_path / "run")
    for number in range(3) if everywhere else [0]:
        path = run / "institutions" / f"institution-00{number}" / "peers.json"
        document = json.loads(path.read_text())
        if isinstance(place, tuple):
            member, field = place
            said = document["peers"][member][field]
            document["peers"][member][field] = f"{said}x" if not field else ("0" if said[0] != "0" else "1") + said[1:]
        else:
            document[place] = "00" * 32
        path.write_text(json.dumps(document))
    if everywhere and place in ((1, 0), (2, 0)):
        with pytest.raises(ConfigError, match="lists no member hospital"):
            failed(run)
    else:
        assert "institutions know the same members, and hold their own private keys" in [c.what for c in failed(run)]


UNFOLLOWED: dict[str, tuple[list[str], object]] = {
    "a ring of another degree": (["parameters", "ring_degree"], 257),
    "ranks that are no numbers": (["config", "decomposition", "refresh_ranks"], ["x"]),
    "a rule that has no root": (["config", "aggregation", "second"], 1.5),
    "no shape of samples": (["sample_shape"], None),
    "no digest of W0": (["weights_digest"], None),
}


@pytest.mark.parametrize("name", UNFOLLOWED)
@pytest.mark.parametrize("number", [0, 1])
def test_a_genesis_that_nobody_can_follow_fails_without_a_traceback(name: str, number: int, tmp_path: Path) -> None:
    run = Maker(config(aggregation={"rule": "adam", "rate": 0.1}), rounds=2).make(tmp_path / "run")
    path, (keys, value) = run / "institutions" / f"institution-00{number}" / "genesis.json", UNFOLLOWED[name]
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(document))
    assert "the federation id is that of every institution's genesis" in [check.what for check in failed(run)]


def test_a_key_for_other_parameters_than_those_of_genesis_is_told(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    for path in run.glob("institutions/*/genesis.json"):
        document = json.loads(path.read_text())
        document["parameters"]["security"] = 256
        path.write_text(json.dumps(document))
    (check,) = failed(run)
    assert check.detail == "3 wrong; first: institution-000: the key is for other parameters than genesis names"


def test_a_void_round_that_never_was_is_told(tmp_path: Path) -> None:
    run = Maker(rounds=2).make(tmp_path / "run")
    with closing(sqlite3.connect(run / "coordinator" / "journal.sqlite")) as database, database:
        database.execute("INSERT INTO voids VALUES (7)")
    (check,) = failed(run)
    assert check.detail == "1 wrong; first: round 7: no sum to replay, round 2 is next"


DAMAGE: dict[str, tuple[str, bytes | str | None]] = {
    "a reference cut short": ("UPDATE rounds SET aggregate = ? WHERE round = 1", b"short"),
    "a reference that is a text": ("UPDATE rounds SET aggregate = ? WHERE round = 1", "short"),
    "a sum with more behind it": ("UPDATE blobs SET data = data || ? WHERE id = 2", b"more"),
    "a sum that is a text": ("UPDATE blobs SET data = ? WHERE id = 2", "text"),
    "no sum": ("UPDATE blobs SET data = ? WHERE id = 2", None),
    "a round that is a text": ("UPDATE rounds SET round = ? WHERE round = 1", "one"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_journal_is_refused(name: str, tmp_path: Path) -> None:
    run, (statement, value) = Maker(rounds=2).make(tmp_path / "run"), DAMAGE[name]
    with closing(sqlite3.connect(run / "coordinator" / "journal.sqlite")) as database, database:
        database.execute(statement, (value,))
    with pytest.raises(JournalError, match=r"journal\.sqlite: .*; expected the journal of a run of protocol 4"):
        failed(run)


def test_an_audit_makes_no_file_beside_the_journal(tmp_path: Path) -> None:
    """On a medium that cannot be written it ended with "unable to open database file", and elsewhere left two files there."""
    run = Maker(rounds=1).make(tmp_path / "run")
    with closing(sqlite3.connect(run / "coordinator" / "journal.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")  # as the coordinator has it
    before = sorted(run.rglob("*"))
    assert not failed(run)
    assert sorted(run.rglob("*")) == before


def test_what_lies_in_a_journals_log_is_audited(tmp_path: Path) -> None:
    run = Maker(rounds=2).make(tmp_path / "run")
    with closing(sqlite3.connect(run / "coordinator" / "journal.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("INSERT INTO voids VALUES (7)")
        (check,) = failed(run)
    assert check.detail == "1 wrong; first: round 7: no sum to replay, round 2 is next"


def test_a_folder_in_place_of_an_upload_is_refused(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    (run / "coordinator" / "recording" / "000009.upload").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*000009\.upload"):
        failed(run)


def test_another_key_to_sign_with_is_told(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    path = run / "institutions" / "institution-001" / "peers.key"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signing": bytes(range(32)).hex()}))
    (check,) = failed(run)
    assert check.detail == "1 wrong; first: hospital-1: a private key that is not the listed one's"


def test_any_eight_bytes_of_a_secret_in_a_log_are_told(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    private = json.loads((run / "institutions" / "institution-001" / "peers.key").read_text())["receiving"]
    (run / "run.log").write_text(f"key ...{private[6:22]}...")
    (check,) = failed(run)
    assert check.detail == "1 wrong; first: run.log: bytes of a private key of hospital-1"


def test_audit_needs_recorded_uploads(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    for upload in (run / "coordinator" / "recording").iterdir():
        upload.unlink()
    with pytest.raises(ConfigError, match="--record"):
        list(audited(run))


class OwnMaskOfNothing(Maker):
    def mask_seeds(self, masker, blob):
        return replace(masker, secret=b"").seeds(blob)


class SamePairStreams(Maker):
    def mask_seeds(self, masker, blob):
        own, *_ = masker.seeds(blob)[0]
        plus, minus = masker.seeds(replace(blob, round=0))
        return [own, *plus[1:]], minus


class PairSecretsWithoutX25519(Maker):
    def pair_secret(self, one: Member, two: Member, context: bytes) -> bytes:
        return hashlib.sha256(min(one.public, two.public) + max(one.public, two.public)).digest()


class NoMasks(Maker):
    def mask_seeds(self, masker, blob):
        return [], []


class ValuesInTheId(Maker):
    def upload_id(self, member, blob, bare, components):
        return super().upload_id(member, blob, bare, components)[:12] + int(components[1]).to_bytes(4, "little")


class RandomIds(Maker):
    def upload_id(self, member, blob, bare, components):
        return super().upload_id(member, blob, bare, components)[:8] + self.random.bytes(8)


class NoErrors(Maker):
    def errors(self, count: int) -> list[int]:
        return [0] * count


class WideErrors(Maker):
    def errors(self, count: int) -> list[int]:
        return (4 * np.array(super().errors(count))).tolist()


class ConstantSeed(Maker):
    def seed(self, member, state):
        return bytes(range(32))


class SeedOfTheMember(Maker):
    def seed(self, member, state):
        return hashlib.sha256(member.secret).digest()


class ZeroKey(Maker):
    def key(self):
        return np.zeros(self.parameters.degree)


class SparseKey(Maker):
    def key(self):
        key = np.zeros(self.parameters.degree)
        key[:64] = 1
        return key


class WideKey(Maker):
    def key(self):
        return self.random.integers(-2, 3, self.parameters.degree)


class ChosenEncryptions(Maker):
    """Encryptions are drawn again until the lowest bit of the first word is that of the sample count."""

    def sealed(self, box, member, state, components):
        while True:
            seed, words = super().sealed(box, member, state, components)
            if int(words[0]) & 1 == int(components[1]) & 1:
                return seed, words


class UntaggedId(Maker):
    def tags(self, agreement, blob, bare):
        return super().tags(agreement, replace(blob, entries=[replace(blob.entries[0], upload_id=bytes(16))]), bare)


class MovedSum(Maker):
    def aggregate(self, blob):
        words = blob.words.copy()
        words[3] = (words[3] + np.uint64(1 << 30)) % np.uint64(self.parameters.p)
        return replace(blob, words=words)


class ShortList(Maker):
    def aggregate(self, blob):
        return replace(blob, entries=blob.entries[:2])


class BeyondItsDigits(Maker):
    def _components(self, agreement, member, made, number):
        components = super()._components(agreement, member, made, number)
        components[made.encrypted[1][0].start] += (made.sealed.digits.largest + 1) * (member.number == 1)
        return components


class StrangeKeys(Maker):
    def _write_genesis(self, folder, agreement, key, everybody):
        super()._write_genesis(folder, agreement, key, everybody)
        path = folder / "institutions" / "institution-001" / "peers.key"
        path.write_text(json.dumps({**json.loads(path.read_text()), "receiving": bytes(range(1, 33)).hex()}))


class OtherMemory(Maker):
    def remembered(self, member, state):
        values = state.values.copy()
        values[0] = np.nextafter(values[0], np.inf)
        return replace(state, values=values) if member.number == 1 else state


class NoNoise(Maker):
    def noise(self, member, agreement, count):
        return np.zeros(count, dtype=np.int64)


class SameNoise(Maker):
    def noise(self, member, agreement, count):
        self.random, kept = np.random.default_rng(member.number), self.random
        drawn = super().noise(member, agreement, count)
        self.random = kept
        return drawn


MASKED = config(defences={"masks": True})
NOISY = config(privacy={"mechanism": "institution", "max_update_norm": 0.02, "noise_multiplier": 1.0, "curious": 1})
NOISY["pruning"]["enabled"] = False
FAULTS: dict[str, tuple[Callable[[], Maker], str]] = {
    "own masks from an empty secret": (lambda: OwnMaskOfNothing(MASKED), "masks, recomputed"),
    "streams that repeat every round": (lambda: SamePairStreams(MASKED), "masks, recomputed"),
    "pair secrets without X25519": (lambda: PairSecretsWithoutX25519(MASKED), "masks, recomputed"),
    "no masks": (lambda: NoMasks(MASKED), "masks, recomputed"),
    "values in the upload id": (ValuesInTheId, "ids follow"),
    "random ids": (RandomIds, "ids follow"),
    "no error term": (NoErrors, "errors move"),
    "errors too wide": (WideErrors, "rests have the variance"),
    "a constant seed": (ConstantSeed, "seeds are distinct"),
    "one encryption of zero for each institution": (SeedOfTheMember, "seeds are distinct"),
    "a key of zeros": (ZeroKey, "key's coefficients are uniform"),
    "a sparse key": (SparseKey, "key's coefficients are uniform"),
    "a wide key": (WideKey, "key is ternary"),
    "rejection-sampled ciphertexts": (lambda: ChosenEncryptions(rounds=34), "goes with a bit of the content"),
    "tags that do not bind the id": (UntaggedId, "tags fit"),
    "a sum that was altered": (MovedSum, "word for word"),
    "a sum whose list is too short": (ShortList, "word for word"),
    "more than its digits": (BeyondItsDigits, "digits of their round's plan"),
    "another private key": (StrangeKeys, "own private keys"),
    "too small a sum": (lambda: Maker(missing=((1, 2),)), "uploads or more"),
    "another memory": (OtherMemory, "memories hold"),
    "no noise": (lambda: NoNoise(NOISY), "agreed noise"),
    "the same noise every round": (lambda: SameNoise(NOISY), "noise is new"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_told(name: str, tmp_path: Path) -> None:
    make, line = FAULTS[name]
    try:
        lines = [check.what for check in failed(make().make(tmp_path / "run"))]
    except Exception as error:  # noqa: BLE001 -- a run so wrong that it cannot even be fabricated
        pytest.fail(f"{name}: {type(error).__name__}: {error}")
    assert any(line in what for what in lines), lines


KEY_LEAKS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda key: b"x" * 13 + key[808:840],
    "hexadecimal": lambda key: b"key=" + key[80:120].hex().encode(),
    "upper case": lambda key: key[88:113].hex().upper().encode(),
    "base64": lambda key: b"key " + __import__("base64").b64encode(key[101:161]),
    "numbers": lambda key: str(np.frombuffer(key, "<u8", 3, 80).tolist()).encode(),
}


@pytest.mark.parametrize("name", KEY_LEAKS)
def test_key_in_a_log_is_told(name: str, tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    from dictpfl.deploy.audit.folder import RunFolder

    key = RunFolder(run).keys[0].secret.astype("<u8").tobytes()
    (run / "institutions" / "institution-000" / "diary.jsonl").write_bytes(b'{"event": 1}\n' + KEY_LEAKS[name](key))
    (check,) = failed(run)
    assert "diary.jsonl: bytes of the key" in check.detail


def test_secrets_of_institutions_in_a_log_are_told(tmp_path: Path) -> None:
    run = Maker(rounds=1).make(tmp_path / "run")
    from dictpfl.deploy.audit.folder import RunFolder

    folder = RunFolder(run)
    party = folder.parties[1]
    signing = bytes.fromhex(json.loads((party.folder / "peers.key").read_text())["signing"])
    for data in (party.secret, party.receiving, signing, folder.agreement.seed):
        (run / "engine.log").write_text(f"made with {data.hex()}")
        assert len(failed(run)) == 1


def test_further_logs_are_searched(tmp_path: Path) -> None:
    run, log = Maker(rounds=1).make(tmp_path / "run"), tmp_path / "service.log"
    from dictpfl.deploy.audit.folder import RunFolder

    log.write_text(RunFolder(run).agreement.seed.hex())
    assert [check.what for check in audited(run, [log]) if check.failed]


@pytest.mark.parametrize(
    ("option", "said"),
    [("--output", "expected a folder"), ("--logs", "expected a file or folder to search, found none")],
)
def test_places_that_are_not_there_are_said_before_anything_is_computed(option: str, said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", "crypto", str(tmp_path / "no run"), option, str(tmp_path / "no" / "file")])
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
