"""Attacks that `dictpfl attack` runs unless asked otherwise; apart from all else, so that the command line starts fast."""

DEFAULT_ATTACKS = ("labels", "closed-form", "idlg", "cosine")
"""Attacks on every method's update."""
DEFAULT_PARTS = ("collusion", "membership", "property", "tokens", "sums", "rounds", "tallies", "thresholds")
"""Attacks with federations of their own; `all-sums`, `worlds` and `times` take longer."""
