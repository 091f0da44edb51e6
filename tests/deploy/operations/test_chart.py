"""The Helm chart: what it renders fits Kubernetes' own schemas, is hardened, and calls commands that exist.

No cluster runs here: none of this shows that a pod starts. With `helm` on the path the chart is linted and rendered anew; without it
the rendered examples are looked at, which name the chart that they are of.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dictpfl.client.keys.vault import CREDENTIAL
from tests.deploy.operations.test_containers import whole
from tests.support import ROOT
from tests.support.called import require_command, require_process_test
from tests.support.machines import until
from tools import chart

HELM = shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (https://helm.sh/docs/intro/install/)")
KINDS = tuple(chart.PARTIES)
OBJECTS = ["ConfigMap metrics", "NetworkPolicy", "PersistentVolumeClaim", "Service", "Service metrics", "StatefulSet"]


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """What an example holds, by kind of object."""
    return by_kind((chart.EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8"))


def by_kind(text: str) -> dict[str, dict[str, Any]]:
    found = [one for one in yaml.safe_load_all(text) if one]
    return {one["kind"] + " metrics" * one["metadata"]["name"].endswith("-metrics"): one for one in found}


def pod(kind: str) -> dict[str, Any]:
    return objects(kind)["StatefulSet"]["spec"]["template"]["spec"]


def containers() -> list[tuple[str, dict[str, Any]]]:
    return [(kind, container) for kind in KINDS for container in pod(kind)["containers"]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_of_this_chart(kind: str) -> None:
    first = (chart.EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.endswith(chart.digest()), "python tools/chart.py"


@needs_helm
@pytest.mark.parametrize("kind", KINDS)
def test_helm_renders_the_examples(kind: str) -> None:
    assert HELM
    assert chart.example(HELM, kind) == (chart.EXAMPLES / f"{kind}.yaml").read_text(encoding="utf-8")
    said = [option for key, value in chart.PARTIES[kind][1].items() for option in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [HELM, "lint", "--strict", str(chart.CHART), *said], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@needs_helm
@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("coordinator", {"role": ""}, "role"),
        ("coordinator", {"image.repository": ""}, "repository"),
        ("institution", {"institution.address": "federation.example.org"}, "address"),
        ("institution", {"institution.passphraseSecret": ""}, "passphraseSecret"),
        ("institution", {"institution.adress": "a:1"}, "adress"),
        ("coordinator", {"metrics.from": "null"}, "from"),
        ("coordinator", {"metrics.from[0]": "null"}, "from"),
        ("institution", {"studies": "true"}, "studies"),
    ],
)
def test_values_that_cannot_be_are_refused(kind: str, more: dict[str, str], said: str) -> None:
    assert HELM
    with pytest.raises(subprocess.CalledProcessError) as refused:
        chart.rendered(HELM, kind, **more)
    assert said in refused.value.stderr


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("federation.example.org:443", True), ("10.0.0.7:65535", True), ("[2001:db8::7]:443", True),
        ("federation.example.org", False), ("a:65536", False), ("a:0", False), ("2001:db8::7:443", False),
        ("a b:443", False), ("https://a:443", False),
    ],
)  # fmt: skip
def test_an_address_is_a_host_and_a_port(address: str, fits: bool) -> None:
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
    values |= {"role": "institution", "image": {"repository": "a"}}
    values["institution"] |= {"address": address, "passphraseSecret": "s"}
    schema = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert jsonschema.Draft7Validator(schema).is_valid(values) is fits


@needs_helm
def test_paused_runs_nothing_of_dictpfl() -> None:
    assert HELM
    for kind in KINDS:
        text = chart.rendered(HELM, kind, paused="true")
        found = {one["kind"]: one for one in yaml.safe_load_all(text) if one}
        (container,) = found["StatefulSet"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sleep", "infinity"]
        assert not {"args", "readinessProbe"} & set(container)


@needs_helm
def test_gpus_are_asked_for_beside_other_limits() -> None:
    assert HELM
    text = chart.rendered(HELM, "institution", **{"institution.gpus": "2", "resources.limits.memory": "64Gi"})
    found = {one["kind"]: one for one in yaml.safe_load_all(text) if one}
    container, *_ = found["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.25", "1.31"])
def test_every_object_fits_the_schema_of_kubernetes(kind: str, version: str) -> None:
    found = objects(kind)
    assert sorted(found) == OBJECTS
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)
    broken = found["StatefulSet"]
    broken["spec"]["template"]["spec"]["containers"][0]["readyness"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_has_one_unprivileged_account_and_no_token(kind: str) -> None:
    found = pod(kind)
    context = found["securityContext"]
    (account,) = [rest for word, rest in whole(kind) if word == "USER"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == account
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["fsGroupChangePolicy"] == "OnRootMismatch", "else keys are opened to the group at each start"
    assert found["automountServiceAccountToken"] is False
    assert objects(kind)["StatefulSet"]["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("kind", "container"), containers(), ids=lambda one: one if isinstance(one, str) else one["name"]
)
def test_every_container_is_hardened(kind: str, container: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert "memory" in container["resources"]["limits"]
    assert not re.search("(?i)passphrase|password|token", str(container.get("env", [])))
    assert container["name"] in {"proxy", "metrics"} or kind in container["image"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_commands_exist_and_are_tested(kind: str) -> None:
    container = pod(kind)["containers"][0]
    program, *probe = container["readinessProbe"]["exec"]["command"]
    assert program == "/opt/dictpfl/bin/dictpfl"
    for arguments in (container["args"], probe):
        require_process_test(require_command(arguments))
    assert "livenessProbe" not in container, "an institution that waits for its coordinator must not be killed for it"


def test_the_passphrase_is_a_file_that_only_the_account_reads() -> None:
    (secret,) = [volume["secret"] for volume in pod("institution")["volumes"] if "secret" in volume]
    assert secret == {"secretName": "berlin-passphrase", "defaultMode": 0o440}
    container = pod("institution")["containers"][0]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "passphrase"]
    assert {"name": "CREDENTIALS_DIRECTORY", "value": mount["mountPath"]} in container["env"]
    assert f"`{CREDENTIAL}`" in (chart.CHART / "values.yaml").read_text(encoding="utf-8")


def test_only_the_proxy_is_reached_and_the_coordinator_calls_nobody() -> None:
    rules = {kind: objects(kind)["NetworkPolicy"]["spec"] for kind in KINDS}
    assert all(rule["policyTypes"] == ["Ingress", "Egress"] for rule in rules.values())
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    metrics = {"ports": [{"protocol": "TCP", "port": 9465}], "from": [monitoring]}
    assert rules["coordinator"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8443}]}, metrics]
    assert rules["coordinator"]["egress"] == []
    assert rules["institution"]["ingress"] == [metrics]
    reached = {(port["protocol"], port["port"]) for rule in rules["institution"]["egress"] for port in rule["ports"]}
    assert reached == {("TCP", 443), ("UDP", 53), ("TCP", 53)}


@needs_helm
def test_without_metrics_nobody_reaches_an_institution() -> None:
    assert HELM
    found = by_kind(chart.rendered(HELM, "institution", **{"metrics.enabled": "false"}))
    assert sorted(found) == [kind for kind in OBJECTS if "metrics" not in kind]
    assert found["NetworkPolicy"]["spec"]["ingress"] == []
    (container,) = found["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][container["args"].index("--metrics-port") + 1] == "0", "what `up` kept is put back"


@needs_helm
@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_of_prometheus_finds_the_metrics(kind: str) -> None:
    assert HELM
    found = by_kind(chart.rendered(HELM, kind, **{"metrics.serviceMonitor": "true"}))
    monitor, service = found["ServiceMonitor"], found["Service metrics"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_handed_out_by_a_container_that_sees_nothing_else(kind: str) -> None:
    party, *_, sidecar = pod(kind)["containers"]
    assert sidecar["name"] == "metrics"
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == {"metrics", "metrics-tmp"}
    (written,) = objects(kind)["ConfigMap metrics"]["data"].values()
    assert [line.rstrip() for line in written.splitlines()] == (chart.CHART / "metrics.conf").read_text().splitlines()
    port = party["args"][party["args"].index("--metrics-port") + 1]
    assert f"proxy_pass http://127.0.0.1:{port};" in written
    (listening,) = sidecar["ports"]
    assert f"listen {listening['containerPort']};" in written
    (served,) = objects(kind)["Service metrics"]["spec"]["ports"]
    assert served["targetPort"] == listening["name"]
    assert [one["name"] for one in objects("coordinator")["Service"]["spec"]["ports"]] == ["federation"], (
        "a balancer opens no metrics to the world"
    )


def test_rounds_are_run_in_the_coordinators_pod_and_again_when_more_are_agreed_on(tmp_path: Path) -> None:
    """The very lines, with another program in place of `dictpfl`: it fails, ends, and is not started for nothing."""
    (container,) = [one for one in pod("coordinator")["containers"] if one["name"] == "run"]
    assert container["command"] == ["/bin/sh", "-c"]
    (lines,) = container["args"]
    (called,) = re.findall(r"/opt/dictpfl/bin/dictpfl (.*?) &", lines)
    require_process_test(require_command(called.split()))
    begun, agreed = tmp_path / "begun", tmp_path / "federation.json"
    agreed.touch()
    program = tmp_path / "dictpfl"
    program.write_text(f"#!/bin/sh\necho x >> {begun}\ntest $(wc -l < {begun}) -ge 3\n")
    program.chmod(0o755)
    replaced = {
        "/tmp/done": f"{tmp_path}/done",
        "/volume/party": str(tmp_path),
        "/opt/dictpfl/bin/dictpfl": str(program),
    }
    for old, new in replaced.items():
        lines = lines.replace(old, new)
    shell = subprocess.Popen([*container["command"], lines.replace("sleep 30", "sleep 0.1")])

    def times() -> int:
        return len(begun.read_text()) // 2 if begun.exists() else 0

    try:
        until(lambda: times() == 3 and (tmp_path / "done").exists(), 20, "two that fail, and one that ends well")
        time.sleep(1.0)
        assert times() == 3
        agreed.write_text("a later epoch")
        until(lambda: times() == 4, 20, "rounds of a later epoch")
    finally:
        shell.terminate()
        assert shell.wait(5) == 0, "the pod need not wait for it"


def test_the_claim_outlives_the_release() -> None:
    for kind in KINDS:
        assert objects(kind)["PersistentVolumeClaim"]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_page_types_what_the_chart_takes() -> None:
    page = (ROOT / "docs" / "deploy/reference.md").read_text(encoding="utf-8")
    section = page[page.index("## Kubernetes") :].split("\n## ")[0]
    keys = set(re.findall(r"--set ([a-zA-Z.]+)=", section))
    known = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
    assert {"role", "image.repository", "paused", "institution.address", "institution.passphraseSecret"} <= keys
    for key in keys:
        found: Any = known
        for part in key.split("."):
            assert part in found, key
            found = found[part]
