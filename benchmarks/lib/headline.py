"""The one table of README.md: what dictpfl reaches and costs, beside what people would otherwise use."""

from __future__ import annotations

from typing import Any

from dictpfl.deploy.units import human_bytes
from lib.clinical.page import mean_of, published
from lib.paper.cells import Store
from lib.paper.measured import Measured
from lib.paper.methods import FULL, OURS
from lib.stored import load, where

_FLOAT32 = 4
"""Bytes of a value in clear."""
_ROW = "| {} | {} | {} | {} |"
_REAL = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB", "ag_news": "AG's News"}
"""Data of the paper whose goals this project set itself."""


def table() -> str:
    """Markdown of README's table, all figures from benchmarks/results."""
    lines = [
        _ROW.format("", "**dictpfl**", "beside it", "measured by `benchmarks/`"),
        "|---|---:|---|---|",
        *_accuracy(),
        *_hospitals(),
        *_bytes(),
        _share(),
        *_attacks(),
    ]
    note = (
        "Three institutions in each, but for the hospitals, four and six real ones, five seeds, and attacks and checks: eight as a rule. Accuracies are "
        "means of three seeds on test data, those of `paper.py` after few steps on few samples, far below what these models reach with all data. Bytes "
        "are those of uploads that are not padded; `encryption.pad_to` adds 0 to 6.25 % by default. An attack that recovers nothing proves nothing "
        "by itself; [the threat model](docs/threat-model.md) says what is claimed. Encryption's share: "
        f"{where(load('round')['machine'])}. All other machines and dates, all tables, and the goals that were missed: "
        "[docs/results.md](docs/results.md)."
    )
    return "\n".join([*lines, "", note])


def _accuracy() -> list[str]:
    """Test accuracy beside plaintext federated averaging of the whole model, with what each sends."""
    found, text = Measured(Store()), load("newsgroups")["methods"]
    return [
        _real(found, "iid", "data alike at all institutions"),
        _real(found, "dirichlet-0.3", "data that differ (Dirichlet 0.3)"),
        _ROW.format(
            "Accuracy: MiniLM on 20 Newsgroups",
            f"{text['dictpfl']['accuracy']:.1f} %",
            f"{text['plaintext']['accuracy']:.1f} % in plaintext, all weights trained",
            "`newsgroups.py`",
        ),
    ]


def _real(found: Measured, partition: str, division: str) -> str:
    """The paper's data under one division; a set that lacks cells of one of the two methods is left out."""
    rows = {
        title: (found.row(name, partition, OURS), found.row(name, partition, FULL)) for name, title in _REAL.items()
    }
    pairs = {title: (ours, full) for title, (ours, full) in rows.items() if ours and full}
    ours, full = (" / ".join(f"{pair[at].accuracy:.1f}" for pair in pairs.values()) for at in range(2))
    shares = " / ".join(f"{100 * ours.bytes / full.bytes:.2f}" for ours, full in pairs.values())
    return _ROW.format(
        f"Accuracy: {' / '.join(pairs)}, {division}",
        f"{ours} %",
        f"{full} % in plaintext, all weights trained; dictpfl sends {shares} % of its bytes",
        "`paper.py`",
    )


def _hospitals() -> list[str]:
    """Mean over real centres under FedYogi, encrypted, beside FLamby's published figure."""
    arm, workloads = "FedYogi, FLamby's rates", load("clinical")["workloads"]
    titles = {
        "heart": ("Accuracy, %: heart disease, four hospitals, FedYogi", ""),
        "tcga": ("Concordance x 100: breast cancer, six regions, FedYogi", ", with ages unscaled, which costs points"),
    }
    return [
        _ROW.format(
            title,
            f"{mean_of(workloads[name]['runs'][arm])[0]:.1f}",
            f"{published(name, 'FedYogi')} as FLamby published it, in clear{but}",
            "`clinical.py`",
        )
        for name, (title, but) in titles.items()
    ]


def _bytes() -> list[str]:
    """Bytes a value, and bytes of one upload of a large model."""
    rows = {row["scheme"]: row for row in load("peers")["rows"] if row["values"] == 1_000_000}
    up = {scheme: row["bytes_up"] / row["values"] for scheme, row in rows.items()}
    others = (("float32 in clear", "float32"), ("Flower SecAgg+", "SecAgg+"), ("NVIDIA FLARE HE", "FLARE"))
    bert = load("communication")["models"]["BERT-base"]
    (ours, _), (flare, _) = (
        bert["methods"]["DictPFL"]["bytes"]["dictpfl"],
        bert["methods"]["FedHE-Full"]["bytes"]["flare"],
    )
    return [
        _ROW.format(
            "Bytes up for each value that is sent",
            f"{up['dictpfl, 8 bits']:.2f}, at 8 bits",
            ", ".join(f"{name} {up[scheme]:.2f}" for scheme, name in others),
            "`peers.py`",
        ),
        _ROW.format(
            "Bytes up of one institution in one round, BERT-base at rank 4",
            f"{human_bytes(ours)}, at 8 bits",
            f"whole model: float32 {human_bytes(_FLOAT32 * bert['model'])}, FLARE {human_bytes(flare)}",
            "`communication.py`",
        ),
    ]


def _share() -> str:
    """Encryption's part of an institution's round."""
    shares = [item["measured"] for item in load("round")["requirements"] if "share" in item["promise"]]
    return _ROW.format(
        "Encryption's share of an institution's round",
        f"{min(shares):.1f} to {max(shares):.1f} %",
        "the rest is training and evaluation",
        "`round.py`",
    )


def _attacks() -> list[str]:
    """Share of training images that the best attack recovers from an update of one step on one image; what holds ciphertexts."""
    checks: list[dict[str, Any]] = load("privacy")["ciphertexts"]
    setting = {"batch": 1, "steps": 1, "model": "vit_tiny"}
    findings: list[dict[str, Any]] = [
        finding
        for finding in load("privacy")["findings"]
        if finding["family"] == "inversion" and setting.items() <= finding["setting"].items()
    ]

    def best(method: str) -> str:
        share, images = max((f["more"]["recovered"], f["trials"]) for f in findings if f["method"] == method)
        return f"{100 * share:.0f} % of {images}"

    def told(verdict: str) -> int:
        return sum(check["verdict"] == verdict for check in checks)

    return [
        _ROW.format(
            "Images that the best attack recovers: coordinator and one institution together, masks off",
            best("dictpfl, coordinator and one institution together"),
            f"plaintext {best('plaintext')}; FedML-HE with 30 % encrypted {best('FedML-HE, 30% encrypted')}",
            "`privacy/run.py`",
        ),
        _ROW.format(
            "Checks of ciphertexts that fail when encryption is wrong, on recorded runs",
            f"{told('FAILED')} of {len(checks)} fail, {told('cannot tell')} cannot tell",
            "[planted faults](docs/how-to/attack.md#faults-that-were-planted) that they tell",
            "`privacy/run.py`",
        ),
    ]
