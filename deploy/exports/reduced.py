"""Words about a model that reads fewer tokens (`[tokens]`): weights alone are exported, and its reducer is none of them."""

from __future__ import annotations

from dictpfl.common.settings import Tokens


def reducer_words(tokens: Tokens) -> str:
    """Name a reducer and its settings, such as "`autoprune` (keep = 0.25, k = 0.1)"; empty where all tokens are read."""
    if tokens.reducer == "none" or tokens.keep == 1.0:
        return ""
    said = {"keep": tokens.keep, **tokens.options}
    return f"`{tokens.reducer}` ({', '.join(f'{key} = {value}' for key, value in said.items())})"


def reducer_notes(tokens: Tokens) -> list[str]:
    """Say what a model was trained or measured with, and the line of Python that puts it back; nothing where all tokens are read."""
    named = reducer_words(tokens)
    if not named:
        return []
    only = tokens.apply == "evaluate"
    said = {"keep": tokens.keep, **({"apply": tokens.apply} if only else {}), **tokens.options}
    call = ", ".join(["model", repr(tokens.reducer), *(f"{key}={value!r}" for key, value in said.items())])
    how = "Trained on all tokens and measured with the token reducer" if only else "Trained with the token reducer"
    return [
        f"{how} {named}, which is no part of the weights: loading the model without it changes outputs. "
        f"`model = dictpfl.reduce_tokens({call})` puts it into the model that was loaded, before an adapter is put on."
    ]
