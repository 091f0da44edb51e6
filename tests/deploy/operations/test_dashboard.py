"""The Grafana dashboard is made of metrics that there are, and leaves none out that says that something is wrong."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.deploy.operations.metrics import CoordinatorMetrics, InstitutionMetrics
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import open_journal
from dictpfl.server.rows import ClosedRound
from tests.support import ROOT


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("dictpfl.deploy") / "dashboards" / "grafana.json").read_text())
    return found


def asked() -> set[str]:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return {name for expression in targets for name in re.findall(r"dictpfl_\w+", expression)}


def told(collector: Any) -> set[str]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_every_metric_of_it_is_served_and_every_alarm_is_in_it(coordinator: Path, institution: Path) -> None:
    journal = open_journal(coordinator, Agreement.load(coordinator / "federation.json"))
    journal.record(
        ClosedRound(0, RoundKind.UPDATE, 1.0, 2.0, 0.5, 9, 1, {}), Aggregate(0, b"sum", (b"a" * 16, b"b" * 16))
    )
    journal.close()
    (institution / "diary.jsonl").write_text(
        json.dumps({"event": "uploaded", "round": 0, "bytes": 1, "seconds": {"train": 1.0}, "at": 1.0}) + "\n"
    )
    served = told(CoordinatorMetrics(coordinator, CoordinatorSettings()))
    served |= told(InstitutionMetrics(institution, NodeSettings(coordinator="localhost:1")))
    assert asked() - served == set()
    alarms = {
        "dictpfl_operator_needed",
        "dictpfl_locked",
        "dictpfl_refused_sums",
        "dictpfl_sums_refused_total",
        "dictpfl_rounds_void_total",
    }
    assert alarms <= asked() & served
    rules = alarm_rules()
    named = {name for rule in rules for name in re.findall(r"dictpfl_\w+", rule["expr"])}
    assert named - served == {
        "dictpfl_coordinator_reached_timestamp_seconds"
    }  # there once a SuperNode has been answered
    assert alarms <= named


def alarm_rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((files("dictpfl.deploy") / "dashboards" / "alarms.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_alarm_says_what_to_do_and_names_what_there_is() -> None:
    """Sections of pages, and files in `logs/`; that Prometheus reads it was tried by hand (2.53.3)."""
    names = [rule["alert"] for rule in alarm_rules()]
    assert len(set(names)) == len(names)
    for rule in alarm_rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warn", "page"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "action"}
        action = rule["annotations"]["action"]
        named = re.findall(r"(docs/[a-z/-]+\.md)#([a-z-]+)", action)
        assert len(named) == action.count("docs/"), rule["alert"]
        for page, anchor in named:
            heads = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z -]", "", head.lower()).replace(" ", "-") for head in heads}, rule["alert"]


def test_grafana_can_place_it() -> None:
    made = dashboard()
    assert made["schemaVersion"] >= 36
    assert {variable["name"] for variable in made["templating"]["list"]} == {"datasource", "job"}
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    places = [panel["gridPos"] for panel in made["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= 24 for at in places)
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)), "two panels lie upon each other"
    assert all(target["legendFormat"] for panel in made["panels"] for target in panel["targets"])


def test_an_institution_that_never_reached_its_coordinator_or_whose_up_has_ended_is_an_alarm(
    institution: Path, tmp_path: Path
) -> None:
    """Neither has a number that is too large: the one metric is not there yet, the others are not there any more."""
    rules = {rule["alert"]: rule["expr"] for rule in alarm_rules()}
    assert rules["DictpflCoordinatorNeverReached"] == (
        'dictpfl_process_up{program="supernode"} unless on (job, instance) dictpfl_coordinator_reached_timestamp_seconds'
    )
    assert rules["DictpflUpAway"] == "up == 0 and on (job, instance) present_over_time(dictpfl_process_up[7d])"
    run = institution / "run"
    run.mkdir(exist_ok=True)
    facts = {"pid": 1, "restarts": 0, "health": 1, "why": ""}
    (run / "processes.json").write_text(json.dumps({"supervisor": 1, "programs": {"supernode": facts}}))
    registry = CollectorRegistry()
    registry.register(InstitutionMetrics(institution, NodeSettings(coordinator="localhost:1")))
    served = generate_latest(registry).decode()
    assert 'dictpfl_process_up{program="supernode"} 1.0' in served
    assert "dictpfl_coordinator_reached_timestamp_seconds" not in served
