"""An option that nothing would read is refused, before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
from dictpfl.deploy.unread import refuse_unread, typed
from tests.support.forking import ran

MODEL = ("transformers:there", "-o", "new")
CASES = [
    (("narrow", *MODEL, "--skill", "classes=a", "--method", "random", "--rate", "0.1"), "--rate: of gates, and --method is random"),
    (("narrow", *MODEL, "--skill", "classes=a", "--method", "lasso", "--tables", "4"), "--tables: of gates"),
    (("narrow", *MODEL, "--skill", "classes=a", "--method", "uncut", "--penalty", "1"), "--penalty: of gates and lasso"),
    (("narrow", *MODEL, "--skill", "classes=a", "--method", "uncut", "--keep", "0.5"), "--keep: of a cut"),
    (("narrow", *MODEL, "--skill", "classes=a", "--seeds", "3"), "--seeds: of the audit"),
    (("narrow", *MODEL, "--skill", "classes=a", "--relearn", "30"), "--relearn: of the audit"),
    (("narrow", *MODEL, "--skill", "text=a.txt", "--head", "trim"), "--head: a head has rows of classes"),
    (("cut", *MODEL, "--ffn", "4", "--most", "9", "--steps", "80"), "--most, --steps: of a search, .*; leave them out"),
    (("cut", *MODEL, "--ffn", "4", "--score", "random", "--calibration", "9"), "--calibration: --score random"),
    (("distil", "transformers:there", "--teacher", "x", "-o", "new", "--weight", "0", "--temperature", "2"), "--temperature"),
    (("tokens", "transformers:there", "--frames", "32"), r"--frames: of a clip .*, and transformers:there is none"),
    (("tokens", "transformers:there", "--encoder", "timm:x", "--picture", "a.png"), "--picture, --encoder|--encoder, --picture"),
    (("tokens", "a.gif", "--encoder", "timm:x", "--side", "8"), "--side: timm:x has patches"),
    (("prune", *MODEL, "--pattern", "2:4", "--sparsity", "0.5"), "--sparsity: --pattern 2:4"),
    (("prune", *MODEL, "--method", "sparsegpt", "--at-once"), "--at-once: of wanda weight by weight"),
    (("prune", *MODEL, "--method", "magnitude", "--calibration", "64"), "--calibration: magnitude looks at no sample"),
    (("export", "there", "-o", "new", "--head", "whole"), "--head: of --format narrow, and --format is safetensors"),
    (("report", ".", "--no-pictures"), "--pictures/--no-pictures: of the privacy report"),
    (("report", ".", "--attack", "x"), "--attack: of the privacy report"),
    (("doctor", "--plugins", "--folder", "x"), "--folder: --plugins lists"),
    (("certificates", "--folder", "tls", "--name", "a", "--csr", "--days", "397"), "--days: the authority that signs"),
    (("audit", "verify", "evidence.json", "--head", "x"), "--head: of custody logs"),
    (("audit", "verify", "custody.jsonl", "--institution", "x"), "--institution: of evidence"),
    (("audit", "numbers", "--data", "a.csv", "--samples", "100"), "--samples: of a language model"),
    (("audit", "numbers", "--data", "a.csv", "--device", "cpu"), "--device: of a language model"),
    (("audit", "numbers", "there", "--into", "x"), "--into: of a table"),
    (("audit", "numbers", "there", "--draws", "20"), "--draws: of neurons that are silenced"),
    (("audit", "layers", "there", "-o", "new", "--solver", "none", "--damping", "0.1"), "--damping: of the inverse"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), CASES, ids=lambda case: " ".join(case) if isinstance(case, tuple) else "")
def test_what_nothing_reads_is_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        app(list(words), standalone_mode=False)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_defaults_are_not_options_that_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="name a file with"):  # it goes on to the model, whose data nothing names
        app(["narrow", *MODEL, "--skill", "classes=a", "--method", "random"], standalone_mode=False)


def test_outside_a_command_nothing_was_typed() -> None:
    assert typed("seed") == []
    refuse_unread("seed", because="of nothing")


def test_it_is_refused_in_a_shell_too(tmp_path: Path) -> None:
    done = ran(["report", ".", "--no-pictures"], tmp_path)
    assert done.returncode == 1
    assert "--pictures/--no-pictures" in done.stderr
    assert "Traceback" not in done.stderr
