"""Memory of an institution between rounds: its record, sealed snapshots and its diary."""
