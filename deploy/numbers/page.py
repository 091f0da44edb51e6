"""numbers.html: digits on one page that carries everything with it and makes no request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dictpfl.deploy.numbers.fit import FIRST
from dictpfl.deploy.numbers.pictures import of_data, of_lens, of_profile, of_shares, of_table
from dictpfl.deploy.reports.templates import template


def page(document: Mapping[str, Any]) -> str:
    """Render a document of `dictpfl audit numbers`."""
    figures = (
        [{"svg": svg, "caption": caption} for svg, caption in of_data(document["data"])] if "data" in document else []
    )
    for name, outcome in document.get("models", {}).items():
        figures += _of_model(name, outcome, document.get("corpus"))
    return template("numbers.html.j2").render(document=document, figures=figures)


def _of_model(name: str, outcome: Mapping[str, Any], corpus: Mapping[str, Any] | None) -> list[dict[str, str]]:
    reading, errors, profile = outcome["reading"], outcome["first_errors"], outcome["profile"]
    first = None if corpus is None else corpus["first"]
    several = "spelling" in outcome
    places = "tokens of answers, told by their first characters" if several else "places of answers"
    written = {"truth": reading["truth"], "written": reading["shares"]} | (
        {} if errors is None else {"first errors": errors["shares"]}
    )
    alone = ", by the tokens of one digit" if several else ""
    found = [
        _figure(of_shares(written, f"Digits of {name}"),
                f"{name}: digits at {reading['places']:,} {places}, {100 * reading['accuracy']:.1f} % of them right."),
        _figure(of_profile(profile["selectivity"], first), f"{name}: mean digit selectivity of its neurons{alone}."),
        _figure(of_lens(outcome["lens"]["shares"]), f"{name}: what it would write if it ended behind that layer, {outcome['lens']['places']:,} places."),
    ]  # fmt: skip
    if "free" in outcome:
        free = outcome["free"]
        series = {"written by itself": free["first"], "Benford": FIRST.tolist()} | (
            {} if first is None else {"corpus": first}
        )
        found.append(
            _figure(
                of_shares(series, f"First digits that {name} writes"),
                f"{name}: first digits of {free['numbers']} numbers.",
            )
        )
        if "characters" in free:
            own = free["characters"]
            found.append(
                _figure(
                    of_shares(
                        {"truth": own["truth"], "written by itself": own["shares"]}, f"Tokens that {name} writes"
                    ),
                    f"{name}: first characters of {own['tokens']:,} tokens that it writes by itself.",
                )
            )
    if "neurons" in outcome:
        neurons = outcome["neurons"]
        found.append(_figure(of_table(neurons["table"], neurons["digits"]),
                             f"{name}: what silencing {neurons['count']} neurons of a digit does to each digit's share."))  # fmt: skip
    return found


def _figure(svg: str, caption: str) -> dict[str, str]:
    return {"svg": svg, "caption": caption}
