"""No claim about security without the name of a test or a benchmark beside it; and what was measured bears the claims out."""

from __future__ import annotations

import json
import re

import pytest

from dictpfl.deploy.attacks.methods import PADDED, SUBJECTS
from dictpfl.deploy.attacks.results import CiphertextCheck, Finding
from tests.support import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "privacy.json"
HOLDERS = re.compile(r"`((?:tests|benchmarks)/[\w./-]*)")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    _, _, rest = text.partition(f"## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[str]:
    """Rows of tables that have a column `shown by`, without heads."""
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif "shown by" in line:
            inside = True
        elif inside and not set(line) <= set("|-: ") and line.split("|")[2].strip() != "nothing":  # no claim
            found.append(line)
    return found


def bullets(text: str) -> list[str]:
    return [part for part in re.split(r"^- ", text, flags=re.MULTILINE)[1:] if part.strip()]


def claims() -> list[str]:
    text = page("docs/threat-model.md")
    found = rows(text)
    for title in ("Limits, plainly", "Decisions that protect"):
        found += bullets(section(text, title))
    readme = section(page("README.md"), "What you can count on")
    found += [part for part in readme.split("\n\n") if part.strip() and not part.lstrip().startswith("|")]
    return found + [
        line for line in readme.splitlines() if line.startswith("|") and "held by" not in line and "---" not in line
    ]


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: re.sub(r"\W+", " ", claim)[:50])
def test_a_claim_names_what_holds_it(claim: str) -> None:
    named = HOLDERS.findall(claim)
    assert named, f"no test and no benchmark beside: {claim}"
    for path in named:
        assert (ROOT / path).exists(), path


def test_parts_that_are_named_exist() -> None:
    """`benchmarks/privacy/run.py` (membership), ...: names in the threat model are parts of the benchmark."""
    from privacy.run import names

    text = page("docs/threat-model.md")
    asked = re.findall(r"`benchmarks/privacy/run\.py`(?: \(|: |, )([\w, -]+?)[).]", text)
    assert asked
    for parts in asked:
        assert {part.strip() for part in parts.split(",")} <= set(names()), parts


PLANTED = {
    "a reused encryption", "no error term", "rejection-sampled ciphertexts", "pair secrets without X25519",
    "own masks from an empty secret", "streams that repeat every round", "values written into the upload id",
    "delays that depend on data", "no tolerance check", "a key in a log",
}  # fmt: skip
"""Faults that an audit of protocol 3 planted, of which no test told most."""


def test_each_planted_fault_names_a_test_that_is_there() -> None:
    table = section(page("docs/how-to/attack.md"), "Faults that were planted")
    faults = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    del faults["fault"]
    assert faults.keys() >= PLANTED
    for fault, line in faults.items():
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line)
        assert named, f"no test beside: {fault}"
        for path, name in named:
            assert re.search(rf"^def {name}\(", page(path), re.MULTILINE), f"{fault}: {path} has no {name}"


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    if not RESULTS.exists():
        pytest.skip("benchmarks/results/privacy.json is not there: python benchmarks/privacy/run.py")
    values = json.loads(RESULTS.read_bytes())["findings"]
    return [Finding.model_validate({key: v for key, v in value.items() if key != "verdict"}) for value in values]


@pytest.fixture(scope="module")
def checks() -> list[CiphertextCheck]:
    if not RESULTS.exists():
        pytest.skip("benchmarks/results/privacy.json is not there: python benchmarks/privacy/run.py")
    return [CiphertextCheck.model_validate(value) for value in json.loads(RESULTS.read_bytes())["ciphertexts"]]


def test_attacks_worked_on_plaintext(found: list[Finding]) -> None:
    """At the easiest setting at least one attack of each kind did; without that no other line means anything."""
    for family in ("inversion", "labels", "tokens", "property"):
        plain = [f for f in found if f.family == family and f.method == "plaintext"]
        assert not plain or any(f.verdict == "succeeds" for f in plain), family


def test_what_is_encrypted_is_checked_and_not_attacked(found: list[Finding], checks: list[CiphertextCheck]) -> None:
    """An attack on data that finds nothing in ciphertexts is no evidence: no fault changes its row."""
    families = ("inversion", "labels", "tokens", "property")
    assert not [f for f in found if f.family in families and f.encrypted and f.adversary == "server"]
    assert {c.method for c in checks} >= {s.label for s in SUBJECTS.values() if s.encrypted}
    assert not [c for c in checks if c.verdict == "FAILED"]


def test_two_worlds_are_told_apart_by_lengths_alone_and_not_where_they_are_padded(found: list[Finding]) -> None:
    """By classes of one institution's samples, over 400 runs, from sizes and times (docs/threat-model.md, Traffic)."""
    game = [f for f in found if f.family == "distinguishing" and "classes" in str(f.setting["worlds"])]
    assert not game or min(int(f.setting["runs"]) for f in game) >= 400
    assert not game or {f.method for f in game} == set(PADDED.values())
    for f in game:
        if f.method == PADDED["none"] and "sizes" in f.attack:
            assert f.verdict == "succeeds", "the threat model says that it does"
        else:
            # Who does worse than a coin has learnt nothing: of six intervals of 95 % one may lie below it by chance.
            assert f.found.low <= 0.5, (f.method, f.attack)


def test_the_shared_key_opened_everything(found: list[Finding]) -> None:
    assert all(f.verdict == "succeeds" for f in found if f.family == "collusion" and f.method == "dictpfl")
