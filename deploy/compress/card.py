"""Cards of compressed models: what was done, by whose samples, and what it reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dictpfl.client.model import hub
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.exports.card import CARD, hub_free
from dictpfl.deploy.runs.run import versions

_DECIDED = (
    "What may go was decided by samples that are not in this folder. Their choice shows in which entries are missing: pass the "
    "folder on only where the samples' owner would pass a model on that was trained on them."
)


def write_compressed_card(
    source: Source,
    folder: Path,
    *,
    kind: str,
    facts: Sequence[tuple[str, str]],
    loading: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Write README.md of a model that was made smaller.

    Args:
        source: the model that it was made of.
        folder: of the model.
        kind: one sentence on what the folder holds.
        facts: rows of the card's table.
        loading: lines of Python.
        notes: for users.
    """
    config, finished = source.config, source.finished
    rows = [("made of", f"`{hub_free(config.model.source)}`"), *facts]
    if finished is not None:
        rows += [
            ("federation id", f"`{finished.genesis.federation.hex()}`"),
            ("digest of the shared state", f"`{finished.state.digest.hex()}`"),
            ("rounds", f"{finished.state.updates}"),
        ]
    rows.append(("dictpfl", versions()["dictpfl"]))
    lines = [
        "---", f"library_name: {hub.split(config.model.source)[0] or 'pytorch'}", "tags:", "- dictpfl", "---", "",
        f"# {config.name}", "", kind, "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "",
        "## Use", "", "```python", *loading, "```", "", *(f"{note}\n" for note in (*notes, *source.reducer_notes, _DECIDED)),
    ]  # fmt: skip
    (folder / CARD).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
