"""Standing of a federation, at its coordinator, as text for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from dictpfl.deploy import console
from dictpfl.deploy.operations.certificates import standing as certificate_standing
from dictpfl.deploy.units import human_bytes, human_seconds


def show_coordinator(standing: dict[str, Any]) -> None:
    """Print what `dictpfl.deploy.operations.status.of_coordinator` tells."""
    _show_troubles(standing)
    table = console.table(
        "round", "kind", "in the sum", "ciphertexts", "up", "down", "time", "of it adding", "not in the sum"
    )
    names = {str(node["node"]): node["name"] for node in standing["nodes"] or ()}
    for r in standing["rounds"]:
        missing = "; ".join(_missing(r, names))
        table.add_row(
            str(r["round"]), f"{r['kind']}, void" if r["void"] else r["kind"], str(r["contributors"]), str(r["ciphertexts"]), human_bytes(r["bytes_up"]),
            human_bytes(r["bytes_down"]), human_seconds(r["seconds"]), human_seconds(r["fold_seconds"]), missing,
        )  # fmt: skip
    console.out.print(table)
    for line in _judged(standing):
        console.say(line)
    if standing["nodes"] is None:
        console.say("the SuperLink does not answer: `dictpfl coordinator up` is not running")
    for node in standing["nodes"] or ():
        seen = (
            "never seen"
            if node["seconds_since_seen"] is None
            else f"seen {human_seconds(node['seconds_since_seen'])} ago"
        )
        console.say(f"{node['name'] or node['node']}: {node['status']}, {seen}")
    if standing["certificate_days_left"] is not None:
        console.say(f"certificate: {certificate_standing(standing['certificate_days_left'])}")


def _show_troubles(standing: dict[str, Any]) -> None:
    """Print how far it has come, and what is wrong."""
    done = sum(r["kind"] == "update" and not r["void"] for r in standing["rounds"])
    console.say(f"federation {standing['federation'][:16]}, {done} of {standing['rounds_wanted']} update rounds")
    if standing["stopped_before_round"] is not None:
        console.say(f"institutions stopped early: no update from round {standing['stopped_before_round']} on")
    for reason in standing["insecurities"]:
        console.say(f"INSECURE (toy_insecure): {reason}")
    if standing["trouble"]:
        console.say(f"STOPPED: {standing['trouble']}")
    if standing["no_run"]:
        console.say(f"NO RUN: {standing['no_run']}")
    if standing["overdue"]:
        console.say("OVERDUE: no round has closed for two deadlines")
    if standing["not_ready"]:
        console.say(f"`up` ended: {standing['not_ready']}")
    for warning in standing["warnings"]:
        console.say(f"WARNING: {warning}")
    if standing["disk"]:
        console.say(f"DISK: {standing['disk']}")
    for program in standing["down"]:
        console.say(f"DOWN: {program}")


def _missing(closed: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    """Say who is not in a round's sum, and why it was asked for again: what mended itself in seconds is explained afterwards."""
    if closed["rejected"]:
        yield ", ".join(f"{names.get(node) or node}: {why}" for node, why in closed["rejected"].items())
    if vain := closed["vain"]:
        yield f"asked again ({len(vain)}), since {vain[-1]}"


def _judged(standing: dict[str, Any]) -> Iterator[str]:
    """Say which rounds are void, which sums were refused, and who is excluded."""
    yield from (r["void"] for r in standing["rounds"] if r["void"])
    for one in standing["refused"]:
        yield f"{time.strftime('%m-%d %H:%M:%S', time.gmtime(one['at']))} UTC: {one['text']}"
    if asked := standing["asked_again"]:
        yield f"{time.strftime('%m-%d %H:%M:%S', time.gmtime(asked['at']))} UTC: {asked['text']}"
    for one in standing["excluded"]:
        since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one["at"]))
        yield f"{one['name']} is excluded since {since} UTC" + (f": {one['reason']}" if one["reason"] else "")
