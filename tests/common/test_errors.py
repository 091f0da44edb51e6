"""Errors: every code once, the old codes still there, the drawn tree true, and every raise with a code that exists."""

import ast
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dictpfl.common import errors
from dictpfl.common.errors import BundleError, DictPFLError, IntegrityError
from dictpfl.common.messages.protocol import LOCKED, NEWCOMER, REFUSED, SCORES_DUE, VOID

ROOT = Path(__file__).parents[2]
ROOMS = ("client", "server", "common", "deploy")
CODES = {
    "behind", "bundle", "ceremony", "ceremony-bundle", "certificate", "config", "corrupt", "custody", "custody-cut", "data",
    "drift", "duplicate", "engine", "error", "evidence", "guard", "identity", "imprint", "insecure", "integrity", "journal", "key-file",
    "layout", "locked", "memory", "model", "noise", "not-a-blob", "not-a-bundle", "old-epoch", "old-proposal", "opening", "oversized", "packing",
    "parameters", "passphrase", "policy", "privacy", "process", "refused", "reveal", "rotation", "round", "same-epoch", "scores-due", "snapshot",
    "study", "tampered-bundle", "too-few", "truncated", "truncated-bundle", "two-texts", "unknown-sender", "version", "void", "wire", "wrong-bundle",
    "wrong-federation", "wrong-key", "wrong-kind", "wrong-recipient", "wrong-round",
}  # fmt: skip
"""Every code that leaves an institution or is logged: others' alerts and runbooks name them, so none changes."""


COORDINATORS = {"deadline", "ahead-of-journal", "excluded", "flower-error", "not-needed", "unconfirmed", "wrong-member"}
"""Reasons that the coordinator gives itself where an institution said nothing."""


def tree(root: type[DictPFLError] = DictPFLError) -> Iterator[type[DictPFLError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def own_codes(kind: type[DictPFLError]) -> list[str]:
    return [kind.code, *vars(kind).get("codes", {})]


def test_no_two_reasons_share_a_code() -> None:
    every = [code for kind in tree() for code in own_codes(kind)] + [*IntegrityError.reasons, NEWCOMER]
    assert [code for code, times in Counter(every).items() if times > 1] == []
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in every)


def test_the_codes_that_the_page_explains_exist() -> None:
    page = (ROOT / "docs/deploy/reference.md").read_text(encoding="utf-8")
    table = page[page.index("| code | because |") : page.index("| others |")]
    named = {code for row in table.splitlines()[2:] for code in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert len(named) > 15
    assert named <= CODES | COORDINATORS
    assert not CODES & COORDINATORS


def test_every_code_is_still_there() -> None:
    assert {code for kind in tree() for code in own_codes(kind)} == CODES


def test_codes_that_a_reply_names_apart_are_those_of_the_errors() -> None:
    assert {REFUSED, VOID, LOCKED, SCORES_DUE} <= CODES


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    drawn = (errors.__doc__ or "").split("\n\n")[1]
    said = re.sub(r"[│├└─]", " ", drawn).replace(";", ",").replace("reasons:", "")
    names = re.findall(r"\b[A-Za-z]*Error\b", said)
    assert names == [kind.__name__ for kind in tree()]
    for kind, text in zip(tree(), re.split(r"\b[A-Za-z]*Error\b", said)[1:], strict=True):
        listed = [word.strip() for word in text.split(",") if word.strip()]
        reasons = list(IntegrityError.reasons) if kind is IntegrityError else []
        if kind is IntegrityError:  # "integrity; reasons: form, ..."
            listed = [word for entry in listed for word in entry.split()]
        assert listed == own_codes(kind) + reasons, kind


def raised() -> Iterator[tuple[str, ast.Call, type[DictPFLError]]]:
    """Every call in the product that makes an error of ours."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind = getattr(errors, node.func.id, None)
                if isinstance(kind, type) and issubclass(kind, DictPFLError):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node, kind


def test_every_code_and_reason_that_is_raised_is_listed_and_every_listed_one_is_raised() -> None:
    used: set[str] = set()
    for where, call, kind in raised():
        named = [word.value for word in call.keywords if word.arg == "code"]
        if kind is IntegrityError:
            word = call.args[0]
            assert isinstance(word, ast.Constant), where
            assert word.value in IntegrityError.reasons, where
            used.add(str(word.value))
        elif named:
            assert isinstance(named[0], ast.Constant), where
            assert named[0].value in vars(kind).get("codes", {}), where
            used.add(str(named[0].value))
        else:
            assert kind is not BundleError, f"{where}: say which kind of refusal"
    assert used == {code for kind in tree() for code in own_codes(kind)[1:]} | set(IntegrityError.reasons)


@pytest.mark.parametrize(
    "kind", [kind for kind in tree() if kind is not IntegrityError], ids=lambda kind: kind.__name__
)
def test_an_error_says_its_message_and_survives_pickling(kind: type[DictPFLError]) -> None:
    for code in own_codes(kind):
        error = pickle.loads(pickle.dumps(kind("why", code=code)))  # noqa: S301 -- our own bytes
        assert (type(error), str(error), error.code) == (kind, "why", code)
    assert kind("why").code == kind.code
