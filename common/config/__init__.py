"""The configuration file that all institutions agree on: its sections, how it is read, and whether it contradicts itself."""

from dictpfl.common.config.reading import FederationConfig, known_keys, literal_values

__all__ = ["FederationConfig", "known_keys", "literal_values"]
