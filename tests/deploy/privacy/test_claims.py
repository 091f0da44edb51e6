"""No claim about security without the name of a test or a benchmark beside it; and what was measured bears the claims out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploy.privacy.results import Finding

ROOT = Path(__file__).parents[3]
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
    from benchmarks.privacy.run import names

    text = page("docs/threat-model.md")
    asked = re.findall(r"`benchmarks/privacy/run\.py`(?: \(|: |, )([\w, -]+?)[).]", text)
    assert asked
    for parts in asked:
        assert {part.strip() for part in parts.split(",")} <= set(names()), parts


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    if not RESULTS.exists():
        pytest.skip("benchmarks/results/privacy.json is not there: python benchmarks/privacy/run.py")
    values = json.loads(RESULTS.read_bytes())["findings"]
    return [Finding.model_validate({key: v for key, v in value.items() if key != "verdict"}) for value in values]


def test_attacks_worked_on_plaintext(found: list[Finding]) -> None:
    """At the easiest setting at least one attack of each kind did; without that no other line means anything."""
    for family in ("inversion", "labels", "tokens", "property"):
        plain = [f for f in found if f.family == family and f.method == "plaintext"]
        assert not plain or any(f.verdict == "succeeds" for f in plain), family


def test_the_coordinator_read_nothing_of_what_is_encrypted(found: list[Finding]) -> None:
    """No attack succeeded, and not more of them beat the blind guess than chance allows: an interval errs one time in forty."""
    families = ("inversion", "labels", "tokens", "property")
    sealed = [f for f in found if f.family in families and f.encrypted and f.adversary == "server"]
    assert not [f for f in sealed if f.verdict == "succeeds"]
    assert sum(f.verdict == "better than blind" for f in sealed) <= 1 + len(sealed) // 20


def test_two_worlds_are_not_told_apart(found: list[Finding]) -> None:
    """By classes of one institution's samples, over 200 runs and all that the coordinator sees."""
    game = [f for f in found if f.family == "distinguishing" and "classes" in str(f.setting["worlds"])]
    assert not game or max(int(f.setting["runs"]) for f in game) >= 200
    for f in game:
        assert f.found.low <= 0.5 <= f.found.high, (f.method, f.attack)


def test_the_shared_key_opened_everything(found: list[Finding]) -> None:
    assert all(f.verdict == "succeeds" for f in found if f.family == "collusion" and f.method == "dictpfl")
