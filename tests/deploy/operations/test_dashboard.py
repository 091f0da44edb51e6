"""The Grafana dashboard is made of metrics that there are, and leaves none out that says that something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
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
        "dictpfl_rounds_overdue",
    }
    assert alarms <= asked() & served
    rules = alarm_rules()
    named = {name for rule in rules for name in re.findall(r"dictpfl_\w+", rule["expr"])}
    assert named - served == {
        "dictpfl_coordinator_reached_timestamp_seconds"
    }  # there once a SuperNode has been answered
    assert alarms <= named


PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)")
ALARMS = ROOT / "deploy" / "dashboards" / "alarms.yml"


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_reads_the_alarms() -> None:
    assert f"SUCCESS: {len(alarm_rules())} rules found" in promtool("check", "rules", ALARMS)


@needs_promtool
@pytest.mark.parametrize(
    ("metric", "values", "alarm"),
    [
        ("dictpfl_rounds_overdue", "0x5 1x5", "DictpflRoundsOverdue"),
        ("dictpfl_rounds_overdue", "0x10", None),
        ("dictpfl_operator_needed", "1x10", "DictpflOperatorNeeded"),
        ("dictpfl_locked", "1x10", "DictpflLocked"),
        ('dictpfl_institution_online{institution="berlin"}', "0x10", None),
        ('dictpfl_institution_online{institution="berlin"}', "0x20", "DictpflInstitutionAway"),
        # Away for a while, then struck off: its metric is not there any more.
        ('dictpfl_institution_online{institution="oslo"}', "0x10 stale", None),
    ],
)
def test_an_alarm_is_raised_where_it_should_be(metric: str, values: str, alarm: str | None, tmp_path: Path) -> None:
    """Prometheus itself plays the minutes of a metric; `name 0x5` is six of them."""
    minutes = sum(int(part.partition("x")[2] or 0) + 1 for part in values.split())
    labels = dict(re.findall(r'(\w+)="(\w+)"', metric))
    target = {"job": "dictpfl", "instance": "hub", **labels}
    name = metric.partition("{")[0]
    checks = []
    for rule in alarm_rules():
        if name not in rule["expr"]:
            continue
        texts = {
            what: text.replace("{{ $labels.institution }}", labels.get("institution", ""))
            for what, text in rule["annotations"].items()
        }
        raised = {"exp_labels": {"severity": rule["labels"]["severity"], **target}, "exp_annotations": texts}
        expected = [raised] if rule["alert"] == alarm else []
        checks.append({"eval_time": f"{minutes - 1}m", "alertname": rule["alert"], "exp_alerts": expected})
    assert checks
    inside = ", ".join(f'{key}="{value}"' for key, value in target.items())
    series = f"{name}{{{inside}}}"
    test = {
        "interval": "1m", "input_series": [{"series": series, "values": values}], "alert_rule_test": checks
    }  # fmt: skip
    played = {"rule_files": [str(ALARMS)], "evaluation_interval": "1m", "tests": [test]}
    path = tmp_path / "played.yml"
    path.write_text(yaml.safe_dump(played))
    promtool("test", "rules", path)


def alarm_rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((files("dictpfl.deploy") / "dashboards" / "alarms.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def test_every_alarm_says_what_to_do_and_names_what_there_is() -> None:
    """Sections of pages, and files in `logs/`."""
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
