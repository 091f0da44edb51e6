"""privacy.json, privacy.md and privacy.svg from the parts that were run: attacks on data, then checks of ciphertexts."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from dictpfl.deploy.attacks.attack import CHECKED
from dictpfl.deploy.attacks.ciphertexts import summary, topic_of
from dictpfl.deploy.attacks.results import TITLES, CiphertextCheck, Detection, Finding, Interval, best_by_method
from lib.lines import Lines
from lib.machine import markdown_table, panels, write_results

_NAMES_MODEL = ("inversion", "labels")
"""Families that are tried on several models."""


def write_page(lines: Lines, wanted: Sequence[str]) -> None:
    """Put together what is there, and say what is not; `wanted`: names of all parts."""
    by_name = sorted(lines.keys(), key=lambda part: f"{part}.")  # a part's variants, named after it, come before it
    parts: list[Any] = [lines.get(part) for part in by_name]
    tried = [Detection.model_validate(d) for d in _of(parts, "active")]
    checks = [CiphertextCheck.model_validate(c) for c in _of(parts, "ciphertexts")]
    others = [p["part"] for p in parts if p["part"] not in ("active", "ciphertexts")]
    found = [Finding.model_validate(f) for part in others for f in _of(parts, part)]
    lines = [
        "# What attackers find",
        "",
        "Made by `python benchmarks/privacy/run.py`; each part's machine, date and commit stand in `privacy/PART.json`. Brackets: "
        "95 % intervals. What attackers are granted, and how each attack works, is in `deploy/attacks`. An attack that does not succeed on "
        "plaintext at the same setting is broken there: that it fails elsewhere says nothing, and the table says so; where it succeeds, it counts. Attacks on data are "
        "made where values are readable; ciphertexts are held to checks that fail when encryption is wrong, further down.",
        "",
        *_releases(parts),
    ]
    works = {_setting(f) for f in found if f.method == "plaintext" and f.verdict == "succeeds"}
    missing = [name for name in wanted if name not in {p["part"] for p in parts}]
    if missing:
        lines += ["", f"**Not measured yet: {', '.join(missing)}.** Nothing is said here of what these would find."]
    for family, title in TITLES.items():
        chosen = sorted((f for f in found if f.family == family), key=_place)
        rows = [_row(f, works) for f in _once(chosen)]
        if rows:
            heads = ["attack", "method", "by", "setting", "metric", "found", "blind guess", "verdict", "more"]
            lines += ["", f"## {title}", "", markdown_table(heads, rows)]
        if rows and family == "aggregate":
            lines += ["", ends(chosen)]
    lines += _ciphertexts(checks)
    if tried:
        rows = [[d.attack, d.adversary, d.outcome, d.by or "-", d.meaning] for d in tried]
        lines += [
            "",
            "## What cheating gets away with",
            "",
            markdown_table(["attempt", "by", "outcome", "noticed by", "meaning"], rows),
        ]
    pictures = sorted({f.picture for f in found if f.picture})
    if pictures:
        lines += ["", "## Pictures", "", *(f"![{name}](privacy/{name})" for name in pictures)]
    facts = {"parts": [{k: v for k, v in p.items() if k != "findings"} for p in parts],
             "ciphertexts": [c.model_dump(mode="json") for c in checks],
             "findings": [f.model_dump(mode="json") | {"verdict": f.verdict} for f in found],
             "detections": [d.model_dump(mode="json") for d in tried]}  # fmt: skip
    write_results("privacy", facts, "\n".join(lines), _figure(found))


def _releases(parts: Sequence[Any]) -> list[str]:
    """Say which release each part was measured with: what an older one found stands until its part is run again."""
    by: dict[str, list[str]] = {}
    for part in parts:
        by.setdefault(part["machine"]["versions"]["dictpfl"], []).append(part["part"])
    told = [f"dictpfl {release}: {', '.join(names)}" for release, names in sorted(by.items())]
    return [
        f"Parts by the release that they were measured with: {'; '.join(told)}. Version 0.1 sent 8 bits a value where 4 are the default now."
    ]


def _of(parts: Sequence[Any], name: str) -> list[Any]:
    """Everything that a part found; nothing if it was not run."""
    return [one for part in parts if part["part"] == name for one in part["findings"]]


def _ciphertexts(checks: Sequence[CiphertextCheck]) -> list[str]:
    """Lines of the audits by topic and run, what was not without fault, and what each topic would fail for and cannot see."""
    if not checks:
        return []
    methods, names = (list(dict.fromkeys(getattr(c, name) for c in checks)) for name in ("method", "topic"))
    rows, meanings = [], list[str]()
    for name in names:
        lines = [c for c in checks if c.topic == name]
        rows.append([name, *(summary([c for c in lines if c.method == method])[1] for method in methods)])
        topic = topic_of(lines[0].what)
        meanings.append(f"- **{name}** would fail for: {topic.fails} It cannot see: {topic.unseen}")
    others = [f"- **{c.verdict}**, {c.method}: {c.what}: {c.detail}" for c in checks if c.verdict != "ok"]
    return [
        "", "## What holds the ciphertexts", "",
        "Lines without fault, of all lines of the audit of a recorded run by a second implementation (`dictpfl audit crypto`). "
        "Without fault they show that what was specified was done; that this is hard to break is assumed.", "",
        markdown_table(["check", *methods], rows), "", *others, *([""] if others else []), *meanings,
    ]  # fmt: skip


def ends(findings: Sequence[Finding]) -> str:
    """Where exact recovery from a sum ends: by the samples of others in it, (K - 1) times the batch."""
    said = []
    for attack, measure, words in (
        ("span check", "members nearer than every other sample", "is nearer to the span of the table's rows than every sample that is not in it"),
        ("inversion of the sum", "recovered", "is recovered (SSIM of at least 0.6)"),
    ):  # fmt: skip
        shares = sorted(
            (
                int(f.setting["samples"]),
                f.more[measure],
                f"{f.setting['institutions']} institutions, batches of {f.setting['batch']}",
            )
            for f in findings
            if f.attack == attack
        )
        first = next((count for count, share, _ in shares if share < 1), 0)
        up_to = max((count for count, share, _ in shares if share == 1 and (not first or count < first)), default=0)
        tail = "; ".join(
            f"{share:.0%} of {count} ({where})" for count, share, where in shares if first and count >= first
        )
        said.append(
            f"Every strange sample {words} up to {up_to} of them in a sum" + (f", then fewer: {tail}." if tail else ".")
        )
    return " ".join(said)


def _once(findings: Sequence[Finding]) -> Sequence[Finding]:
    """Without what two parts found alike."""
    kept: dict[tuple[str | float, ...], Finding] = {}
    for f in findings:
        kept.setdefault((f.attack, f.method, f.found.value, json.dumps(f.setting)), f)
    return list(kept.values())


def _place(f: Finding) -> tuple[str, int, int, str]:
    return str(f.setting.get("model", "")), int(f.setting.get("steps", 1)), int(f.setting.get("batch", 0)), f.attack


def _setting(f: Finding) -> tuple[Any, ...]:
    """What an attack is tried at, whatever the method."""
    return (f.family, f.attack, *(f.setting.get(key) for key in ("model", "batch", "steps")))


def _row(f: Finding, works: Collection[tuple[Any, ...]]) -> list[str]:
    hidden = {"round", "model"} | ({"steps"} if f.setting.get("steps") == 1 else set())
    setting = ", ".join(f"{key} {_plain(value)}" for key, value in f.setting.items() if key not in hidden)
    more = ", ".join(f"{key} {value:.2g}" for key, value in f.more.items() if key != "mismatch")
    model = f" ({f.setting['model']})" if f.family in _NAMES_MODEL else ""
    is_broken = f.family in CHECKED and _setting(f) not in works and f.verdict != "succeeds"
    return [
        f.attack,
        f.method,
        f.adversary,
        setting + model,
        f.metric,
        _ranged(f.found),
        _ranged(f.blind),
        "broken at this setting" if is_broken else f.verdict,
        more,
    ]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ranged(i: Interval) -> str:
    return f"{i.value:.2f}" if i.low == i.high else f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]"


def _figure(found: Sequence[Finding]) -> Any:
    figure, (ax,) = panels("Best reconstruction of an image where values are readable, batch of one, vit_tiny")
    easiest = {"batch": 1, "model": "vit_tiny", "steps": 1}
    best = best_by_method(f for f in found if f.family == "inversion" and f.setting.items() >= easiest.items())
    names = list(best)
    places = range(len(names))
    values = [best[name].found for name in names]
    errors = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
    ax.barh(
        places,
        [v.value for v in values],
        xerr=errors,
        color="#c1440e",
    )
    ax.plot([best[name].blind.value for name in names], places, "|", color="black", markersize=12, label="blind guess")
    ax.set_yticks(places, names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("SSIM of the best attack (1: the image itself)")
    figure.set_size_inches(7.5, 0.6 + 0.32 * max(4, len(names)))
    if names:
        ax.legend(frameon=False, fontsize=8)
    return figure
