"""The model card of an export: what the federation agreed on, and nothing about anybody's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dictpfl.client.data.images import Normalisation, normalisation_of
from dictpfl.client.model import hub
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.reduced import reducer_notes
from dictpfl.deploy.runs.run import versions

CARD = "README.md"
_LOCAL = "Tensors that stay with each institution (`decomposition.local`, FedBN) are {whose}."


def write_card(
    finished: Finished,
    folder: Path,
    *,
    kind: str,
    loading: Sequence[str],
    notes: Sequence[str],
    library: str,
    base: str,
) -> None:
    """Write README.md: method, rounds, parameters, federation id, how to load the folder, and the reducer of tokens, if there was one.

    Args:
        finished: the federation.
        folder: of the export.
        kind: one sentence on what the folder holds.
        loading: lines of Python.
        notes: for users.
        library: of the card's header.
        base: name of the base model on a hub, or empty.
    """
    genesis, state = finished.genesis, finished.state
    config = genesis.config
    encryption = genesis.parameters
    sealed = config.encryption.sealer == "ckks" and config.encryption.sealed_share == 1.0
    architecture = config.model.architecture.get("model_type") or config.model.architecture.get("architecture")
    tables = [dictionary.rank for dictionary in genesis.dictionaries.values()]
    parts = "lookup tables" if config.decomposition.form == "table" else "cores"
    facts = [
        ("method", f"`{config.method}`"),
        *([("classes, by number", ", ".join(f"`{name}`" for name in finished.classes))] if finished.classes else []),
        *([("pixels", _pixels(normalised))] if (normalised := normalisation_of(config.data)) else []),
        ("architecture", f"`{architecture or hub_free(config.model.source)}`"),
        ("rounds", f"{state.updates}"),
        ("institutions, at most", f"{encryption.capacity}"),
        ("parameters shared", f"{genesis.layout.size:,} ({len(tables)} {parts}{_ranks(tables)}, the rest dense)"),
        ("dictionary refreshes", f"{len(state.records)}"),
        ("uploads", f"CKKS, ring degree {encryption.ring_degree}" if sealed else "NOT (fully) encrypted"),
        ("federation id", f"`{genesis.federation.hex()}`"),
        ("digest of the shared state", f"`{state.digest.hex()}`"),
        ("dictpfl", versions()["dictpfl"]),
    ]  # fmt: skip
    head = ["---", f"library_name: {library}", "tags:", "- federated-learning", "- dictpfl"]
    head += [f"base_model: {base}"] if base else []
    body = [
        "---", "", f"# {config.name}", "", kind, "",
        "Fine-tuned by several institutions on data that never left them, on encrypted updates.", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts), "",
        "## Use", "", "```python", *loading, "```", "",
        *(f"{note}\n" for note in (*notes, *reducer_notes(config.tokens))),
    ]  # fmt: skip
    (folder / CARD).write_text("\n".join([*head, *body]).rstrip() + "\n", encoding="utf-8")


def _pixels(normalised: Normalisation) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalised)
    return f"from 0 to 1, less their mean {mean}, over their deviation {std}"


def _ranks(tables: list[int]) -> str:
    if not tables:
        return ""
    least, most = min(tables), max(tables)
    return f" of rank {least}" if least == most else f" of ranks {least} to {most}"


def hub_free(source: str) -> str:
    """A model's source without a path of somebody's machine."""
    library, name = hub.split(source)
    return f"{library}:{Path(name).name}" if library else source


def local_notes(finished: Finished) -> list[str]:
    """A note on whose local tensors an export holds; none where all tensors are shared."""
    roles = {str(role) for role in finished.bench().twin.roles.values()}
    if not roles & {"local", "local-statistic"}:
        return []
    return [
        _LOCAL.format(whose="those of the institution that made this export" if finished.local else "as at genesis")
    ]
