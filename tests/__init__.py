"""A package, so that tests import `tests.support`: another distribution's `tests` must not be found in its place."""
