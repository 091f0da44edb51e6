"""Prometheus metrics on loopback: what a party's operator may see in any case, as numbers over time.

At the coordinator counts, sizes and times, as in `dictpfl status`; nothing of it depends on data, for the coordinator
has nothing else. At an institution its work and traffic; its metric and loss stay in its folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from flwr.supercore.constant import NodeStatus
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dictpfl.client.folder import DIARY
from dictpfl.common.errors import DictPFLError, ProcessError
from dictpfl.deploy.operations import disk
from dictpfl.deploy.operations.certificates import validity
from dictpfl.deploy.operations.health import last_contact, processes
from dictpfl.deploy.operations.places import LOOPBACK
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.deploy.operations.status import of_coordinator

if TYPE_CHECKING:
    from dictpfl.deploy.operations.refusals import Refusals

_log = structlog.get_logger(__name__)


@contextmanager
def served(port: int, collector: Collector) -> Iterator[int]:
    """Answer scrapes on loopback as long as the context is open; port 0: not at all. Gives the port.

    Raises:
        ProcessError: somebody else has the port.
    """
    if not port:
        yield 0
        return
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise ProcessError(
            f"cannot serve metrics on {LOOPBACK}:{port} ({error.strerror}); choose another metrics_port, or 0 for none"
        ) from error
    _log.info("metrics", address=f"http://{LOOPBACK}:{port}/metrics")
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class CoordinatorMetrics(Collector):
    """Read anew from journal, SuperLink and supervisor at each scrape."""

    def __init__(self, folder: Path, settings: CoordinatorSettings) -> None:
        self._folder, self._settings = folder, settings

    def describe(self) -> list[Metric]:
        """Describe nothing: registering must not read the journal."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families; if the folder cannot be read, only that fact and what does not need it."""
        yield from _programs(self._folder)
        yield from _certificates(self._folder / self._settings.certificate, self._folder / self._settings.ca)
        try:
            standing = of_coordinator(self._folder)
        except DictPFLError as error:
            _log.warning("metrics incomplete", reason=str(error))
            yield GaugeMetricFamily("dictpfl_readable", "Whether agreement and journal could be read.", 0)
            return
        yield GaugeMetricFamily("dictpfl_readable", "Whether agreement and journal could be read.", 1)
        yield from _rounds(standing)
        yield from _troubles(standing)
        yield from _nodes(standing["nodes"], {one["name"] for one in standing["excluded"]})


def _rounds(standing: Mapping[str, Any]) -> Iterator[Metric]:
    rounds = standing["rounds"]
    closed = CounterMetricFamily("dictpfl_rounds_closed", "Closed rounds.", labels=["kind"])
    for kind in ("update", "score", "measure"):
        closed.add_metric([kind], sum(r["kind"] == kind for r in rounds))
    yield closed
    yield GaugeMetricFamily("dictpfl_rounds_wanted", "Update rounds that were agreed on.", standing["rounds_wanted"])
    yield CounterMetricFamily(
        "dictpfl_uploads_counted", "Uploads in the sums of closed rounds.", sum(r["contributors"] for r in rounds)
    )
    yield CounterMetricFamily(
        "dictpfl_uploads_left_out",
        "Uploads missing from sums: late, refused or wrong.",
        sum(len(r["rejected"]) for r in rounds),
    )
    yield CounterMetricFamily("dictpfl_bytes_up", "Bytes of uploads received.", sum(r["bytes_up"] for r in rounds))
    yield CounterMetricFamily(
        "dictpfl_bytes_down", "Bytes of sums, as one institution fetches them.", sum(r["bytes_down"] for r in rounds)
    )
    seconds = CounterMetricFamily(
        "dictpfl_phase_seconds", "Wall clock: whole rounds; adding, within them.", labels=["phase"]
    )
    seconds.add_metric(["round"], sum(r["seconds"] for r in rounds))
    seconds.add_metric(["fold"], sum(r["fold_seconds"] for r in rounds))
    yield seconds
    if rounds:
        last = rounds[-1]
        yield GaugeMetricFamily("dictpfl_round_contributors", "Uploads in the last sum.", last["contributors"])
        yield GaugeMetricFamily("dictpfl_round_seconds", "Seconds that the last round took.", last["seconds"])
        yield GaugeMetricFamily("dictpfl_round_ended_timestamp_seconds", "When the last round closed.", last["ended"])


def _troubles(standing: Mapping[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "dictpfl_sums_refused", "Rounds whose sum an institution refused.", len(standing["refused"])
    )
    yield CounterMetricFamily(
        "dictpfl_rounds_asked_again", "Times that a round had too few uploads.", standing["times_asked_again"]
    )
    void = sum(bool(r["void"]) for r in standing["rounds"])
    yield CounterMetricFamily("dictpfl_rounds_void", "Closed rounds that institutions passed over.", void)
    yield GaugeMetricFamily(
        "dictpfl_institutions_excluded", "Institutions that the operator excluded.", len(standing["excluded"])
    )
    yield GaugeMetricFamily(
        "dictpfl_rounds_overdue",
        "Whether rounds are wanted and none has closed for two deadlines.",
        standing["overdue"],
    )
    yield GaugeMetricFamily(
        "dictpfl_operator_needed", "Whether rounds cannot go on by themselves.", int(bool(standing["trouble"]))
    )


def _nodes(nodes: list[dict[str, Any]] | None, excluded: set[str]) -> Iterator[Metric]:
    """Yield families of the nodes; one that was struck off or excluded is not missed, and would count as away for good."""
    yield GaugeMetricFamily("dictpfl_superlink_up", "Whether the SuperLink answers.", int(nodes is not None))
    online = GaugeMetricFamily(
        "dictpfl_institution_online", "Whether Flower counts the node as online.", labels=["institution"]
    )
    seen = GaugeMetricFamily(
        "dictpfl_institution_last_seen_timestamp_seconds", "When the node was last heard of.", labels=["institution"]
    )
    for node in nodes or ():
        if node["status"] == NodeStatus.UNREGISTERED or node["name"] in excluded:
            continue
        name = [node["name"] or str(node["node"])]
        online.add_metric(name, int(node["status"] == "online"))
        if node["seconds_since_seen"] is not None:
            seen.add_metric(name, time.time() - node["seconds_since_seen"])
    yield online
    yield seen


class InstitutionMetrics(Collector):
    """Read from the diary, as it grows, and the supervisor."""

    def __init__(self, folder: Path, settings: NodeSettings) -> None:
        self._folder, self._settings = folder, settings
        from dictpfl.deploy.operations.refusals import Refusals  # here: a coordinator loads nothing that reads a memory

        self._diary, self._refusals = Diary(folder / DIARY), Refusals(folder)

    def describe(self) -> list[Metric]:
        """Describe nothing: registering must not read the diary."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from _programs(self._folder)
        yield from _certificates(self._folder / self._settings.ca)
        diary = self._diary
        diary.read()
        yield CounterMetricFamily(
            "dictpfl_uploads", "Uploads made, repeated ones included.", diary.events.get("uploaded", 0)
        )
        yield CounterMetricFamily(
            "dictpfl_rounds_applied", "Aggregates applied, replays included.", diary.events.get("applied", 0)
        )
        yield CounterMetricFamily(
            "dictpfl_rounds_void",
            "Rounds of which nothing was applied, at any institution.",
            diary.events.get("void", 0),
        )
        yield from _refused(self._refusals)
        yield CounterMetricFamily("dictpfl_bytes_up", "Bytes of uploads.", diary.bytes.get("uploaded", 0))
        yield CounterMetricFamily("dictpfl_bytes_down", "Bytes of aggregates applied.", diary.bytes.get("applied", 0))
        seconds = CounterMetricFamily("dictpfl_phase_seconds", "Wall clock by phase of the work.", labels=["phase"])
        for phase, value in sorted(diary.seconds.items()):
            seconds.add_metric([phase], value)
        yield seconds
        if (reached := last_contact(self._folder)) is not None:
            yield GaugeMetricFamily(
                "dictpfl_coordinator_reached_timestamp_seconds", "When the coordinator last answered.", reached
            )
        if diary.round is not None:
            yield GaugeMetricFamily("dictpfl_round", "Number of the last round applied or uploaded for.", diary.round)
            yield GaugeMetricFamily(
                "dictpfl_last_active_timestamp_seconds", "When the diary was last written.", diary.at
            )


def _refused(refusals: Refusals) -> Iterator[Metric]:
    try:
        standing = refusals.standing()
    except DictPFLError as error:
        _log.warning("metrics incomplete", reason=str(error))
        return
    yield GaugeMetricFamily("dictpfl_refused_sums", "Refused sums that nobody has looked at.", len(standing.unseen))
    yield GaugeMetricFamily("dictpfl_locked", "Whether refused sums lock the institution.", int(standing.locked))


class Diary:
    """Sums over an institution's diary, each line read once."""

    def __init__(self, path: Path) -> None:
        """Start at its beginning; a missing file is an empty one."""
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._offset = 0
        self.events: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.round: int | None = None
        self.at = 0.0

    def read(self) -> None:
        """Take in whole lines that are new; a damaged one is passed over; a file that shrank (restored from backup) is read anew."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    self._begin()
                file.seek(self._offset)
                data = file.read(size - self._offset)
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def _take(self, entry: dict[str, Any]) -> None:
        event, number, size, at = str(entry["event"]), int(entry["round"]), int(entry["bytes"]), float(entry["at"])
        seconds = {str(phase): float(value) for phase, value in entry["seconds"].items()}
        self.events[event] = self.events.get(event, 0) + 1
        self.bytes[event] = self.bytes.get(event, 0) + size
        for phase, value in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + value
        self.round, self.at = number, at


def _programs(folder: Path) -> Iterator[Metric]:
    up = GaugeMetricFamily("dictpfl_process_up", "Whether the program has a process.", labels=["program"])
    restarts = CounterMetricFamily("dictpfl_process_restarts", "Restarts since `up` began.", labels=["program"])
    for name, facts in processes(folder).get("programs", {}).items():
        up.add_metric([name], int(facts.get("pid") is not None))
        restarts.add_metric([name], max(0, facts.get("restarts") or 0))
    yield up
    yield restarts
    if (left := disk.free(folder)) is not None:
        yield GaugeMetricFamily("dictpfl_disk_free_bytes", "Free bytes on the folder's disk.", left)


def _certificates(*paths: Path) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "dictpfl_certificate_expiry_timestamp_seconds", "When a certificate ends.", labels=["file"]
    )
    for path in paths:
        try:
            ends.add_metric([path.name], validity(path).ends.timestamp())
        except DictPFLError as error:
            _log.warning("metrics incomplete", reason=str(error))
    yield ends
