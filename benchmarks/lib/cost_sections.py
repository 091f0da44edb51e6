"""Sections of docs/results.md on what a federation costs: bytes, time and memory."""

from __future__ import annotations

from lib.stored import before_short_ciphertexts, goals, in_bytes, load, where


def encryption() -> str:
    """Bytes a value against their floor, and time against protocol 3."""
    result = load("encryption")
    largest = max(row["values"] for row in result["sizes"])
    lines = [
        f"## Encryption\n\n(`python benchmarks/encryption.py`; {largest:,} values, whole blobs with tags, sums exact; the floor of a value is "
        "log2 R bits, of R possible sums).",
        "",
        "| institutions | bits | bytes a value up | down | floor | up over floor | down over floor |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['institutions']} | {row['value_bits']} | {row['bytes_up'] / largest:.3f} | {row['bytes_down'] / largest:.3f} | "
        f"{row['floor_bits'] / 8:.3f} | {row['floors_up']:.3f} | {row['floors_down']:.3f} |"
        for row in result["sizes"]
        if row["values"] == largest
    ]
    timed = {
        row["scheme"]: row for row in result["times"] if row["values"] == max(r["values"] for r in result["times"])
    }
    ours, theirs = timed["dictpfl"], timed["ts.ckks_vector"]
    ratios = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in ours["times_protocol_3"].items())
    slower = sum(theirs["seconds"][phase] for phase in ("seal", "open")) / sum(
        ours["seconds"][phase] for phase in ("seal", "open")
    )
    note = (
        f"Processor time over that of protocol 3, which had no tags (8 bits, three institutions, {ours['values']:,} values, paired): {ratios}. "
        f"Sealing and opening take {slower:.1f} times less than `ts.ckks_vector` as tutorials use it. {goals(result, 'encryption')} "
        f"{where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])


def mechanisms() -> str:
    """Bytes before and after, mechanism by mechanism."""
    result = load("mechanisms")
    cases = result["cases"]
    lines = [
        "## Bytes before and after\n\n(`python benchmarks/mechanisms.py`; bytes up of one institution of three; each line adds one mechanism to "
        "those above it; `digits` is all rounds of `experiments/digits.toml`, to the byte).",
        "",
        "| with | " + " | ".join(cases) + " |",
        "|---|" + "---:|" * len(cases),
    ]
    lines += [
        f"| {rows[0]['mechanism']} | " + " | ".join(f"{row['bytes']:,}" for row in rows) + " |"
        for rows in zip(*cases.values(), strict=True)
    ]
    return "\n".join([*lines, "", f"{goals(result, 'mechanisms')} {where(result['machine'])}."])


def rounds() -> str:
    """What encryption takes of a round."""
    result = load("round")
    promises = [
        f"- {item['promise']}: {item['measured']:.3g} {item['unit']} (wanted: {item['relation']} {item['bound']:g})"
        for item in result["requirements"]
    ]
    head = (
        "## A round\n\n(`python benchmarks/round.py`; the ViT has 4.9 million parameters, one local epoch of 5 steps)."
    )
    return "\n".join([head, "", *promises, "", where(result["machine"]) + "."])


def communication() -> str:
    """Bytes of the paper's models."""
    result = load("communication")
    lines = [
        "## Communication of the paper's models\n\n(`python benchmarks/communication.py`; one institution, one round, up and down; "
        "r = 4, three institutions, no pruning unless said).",
        "",
        "| | FedHE-Full, the paper's OpenFHE | FedHE-Full, FLARE | FedHE-Full, this encoding | **dictpfl**, up | **dictpfl**, down "
        "| FedHE-Full / dictpfl | the same, pruned over 30 rounds |",
        "|---|" + "---:|" * 7,
    ]
    for name, model in result["models"].items():
        full, ours = (model["methods"][method]["bytes"] for method in ("FedHE-Full", "DictPFL"))
        cells = [in_bytes(sum(full[encoding])) for encoding in ("openfhe", "flare", "dictpfl")]
        cells += [in_bytes(count) for count in ours["dictpfl"]]
        pruned = model["pruned"]["default settings"]["ratio"]
        cells += [f"{sum(full['dictpfl']) / sum(ours['dictpfl']):.0f} x", f"{pruned:.0f} x"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    note = (
        "The paper reports 402 to 748 times less than FedHE-Full. The pruning curve is that of digits, laid over these shapes. "
        f"{goals(result, 'communication')} {where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])


def peers() -> str:
    """Bytes and time beside what people would otherwise use."""
    result = load("peers")
    rows = [row for row in result["rows"] if row["values"] == 1_000_000]
    lines = [
        "## The same 10^6 values averaged by others\n\n(`python benchmarks/peers.py`; three institutions, one run; nanoseconds a value).",
        "",
        "| | bytes a value up | down | encrypt | aggregate | decrypt | all work |",
        "|---|" + "---:|" * 6,
    ]
    for row in rows:
        ns = [1e9 * row["seconds"][phase] / row["values"] for phase in ("encrypt", "aggregate", "decrypt")]
        work = 1e9 * sum(row["seconds"].values()) / row["values"]
        sent = [row[way] / row["values"] for way in ("bytes_up", "bytes_down")]
        lines.append(
            f"| {row['scheme']} | " + " | ".join([f"{b:.2f}" for b in sent] + [f"{n:,.0f}" for n in (*ns, work)]) + " |"
        )
    note = (
        "`all work` counts encryptions of zero, prepared while an institution waits. SecAgg+ masks, and its server learns the mean; "
        "FedML-HE and MaskCrypt send the rest in clear. "
        f"{goals(result, 'peers')} {where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])


def scale() -> str:
    """Cost against size, institutions and rounds."""
    result = load("scale")
    fits, guess = result["fits"], result["extrapolated"]
    most = result["institutions"][-1]
    sizes = [size for size in result["sizes"] if size["method"] == "DictPFL"]
    lines = [
        "## Scale\n\n(`python benchmarks/scale.py`).",
        "",
        f"- a model of {sizes[-1]['parameters']:,} parameters shares {sizes[-1]['values']:,} values; an institution's time with "
        f"encryption grows with the {fits['institution against parameters, DictPFL'][0]:.2f}th power of the parameters",
        f"- {most['participants']:,} institutions: the server's time grows with the {fits['fold against institutions'][0]:.2f}th power of "
        f"their number, and folding needs {in_bytes(most['peak_bytes'])} above the start",
        f"- TinyLlama-1.1B with 1,000 institutions, extrapolated: {in_bytes(guess['bytes_up'])} up and {in_bytes(guess['bytes_down'])} down for "
        f"each, {guess['fold']:,.0f} s of one core at the server a round",
        "",
        f"{before_short_ciphertexts(result['machine'])}{goals(result, 'scale')} {where(result['machine'])}.",
    ]
    return "\n".join(lines)


def time_to_accuracy() -> str:
    """Seconds to the same accuracy on three networks."""
    result = load("time_to_accuracy")
    networks = list(result["methods"]["dictpfl"]["seconds"])
    lines = [
        "## Time to the same accuracy\n\n(`python benchmarks/time_to_accuracy.py`; vit_tiny on digits, three institutions; work and bytes "
        "measured, network modelled by its rate; seconds).",
        "",
        "| | " + " | ".join(networks) + " | bytes a round |",
        "|---|" + "---:|" * (len(networks) + 1),
    ]
    for name, row in result["methods"].items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{row['seconds'][n]:.1f}" for n in networks)
            + f" | {row['bytes_a_round']:,.0f} |"
        )
    note = (
        f"Target: {', '.join(f'{100 * target:.0f} %' for target in result['targets'])}, the highest that all reach. "
        f"{before_short_ciphertexts(result['machine'])}{goals(result, 'time_to_accuracy')} {where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])


def defences() -> str:
    """What masks and integrity add."""
    result = load("defences")
    lines = [
        "## Masks and integrity\n\n(`python benchmarks/defences.py`; milliseconds of processor time added to a round).",
        "",
        "| institutions | masks: each | coordinator | integrity: each | coordinator | bytes of each, of an upload and a sum |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        both = [
            f"{1e3 * row[part][who]:.1f}" for part in ("masks", "integrity") for who in ("institution", "coordinator")
        ]
        extra = row["masks"]["bytes"] + row["integrity"]["bytes"]
        lines.append(f"| {row['institutions']} | {' | '.join(both)} | {extra / row['bytes']:+.1%} |")
    note = (
        "A round with masks takes one more exchange of small messages, which is not in these figures. "
        f"{goals(result, 'defences')} {where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])
