"""Names of environment variables by which a supervisor talks to the programs that it starts."""

from __future__ import annotations

PARENT, HEARTBEAT, TASK, POLL = "DICTPFL_PARENT", "DICTPFL_HEARTBEAT", "DICTPFL_TASK", "DICTPFL_POLL"
TASK_POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
"""Seconds between a SuperExec's looks for tasks, at most (Flower's own variable)."""
CONTACT = "DICTPFL_CONTACT"
"""A file that a SuperNode touches whenever the coordinator answers."""
HOME, BUNDLE, INSTITUTION, AHEAD = "FLWR_HOME", "DICTPFL_BUNDLE", "DICTPFL_INSTITUTION", "DICTPFL_AHEAD"
"""`DICTPFL_AHEAD`: `nothing` loads nothing ahead, which saves 200 MB and costs each task three seconds; `modules` loads torch
and opens no institution."""
