"""What stands beside a model's weights in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import transformers

from dictpfl.deploy.exports.folders import save_tokenizer
from tests.support.failing_disks import small_files
from tests.support.federations import tiny


def test_a_tokenizer_that_the_disk_has_no_room_for_is_said(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(500)}, unk_token="w0"))  # noqa: S106 -- no password
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(tmp_path / "words")  # noqa: S106
    config = tiny(data__options={"tokenizer": str(tmp_path / "words")})
    (tmp_path / "out").mkdir()
    with small_files(2_000), pytest.raises(OSError, match="cannot write the tokenizer"):
        save_tokenizer(config, tmp_path / "out")
    assert save_tokenizer(config, tmp_path / "out") == ""
