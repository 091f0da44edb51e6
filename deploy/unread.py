"""Options that nothing reads in the case at hand: refused, since whoever types one believes that it counts."""

from __future__ import annotations

from click import Parameter, get_current_context
from click.core import ParameterSource

from dictpfl.common.errors import ConfigError


def typed(*names: str) -> list[str]:
    """Name the options that stand on the command line now, as they are written there; none outside a command.

    Args:
        names: of the command's parameters, such as `set_` for `--set`.
    """
    context = get_current_context(silent=True)
    if context is None:
        return []
    known = {option.name: option for option in context.command.params}
    there = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return [_written(known[name]) for name in there]


def refuse_unread(*names: str, because: str) -> None:
    """Refuse options that were typed, for they would change nothing.

    Args:
        names: of the command's parameters.
        because: what makes them void, to stand behind their names.

    Raises:
        ConfigError: one of them was typed.
    """
    if found := typed(*names):
        raise ConfigError(f"{', '.join(found)}: {because}; leave {'it' if len(found) == 1 else 'them'} out")


def _written(option: Parameter) -> str:
    """An option's long name; both where it can be switched off, for it is not told which was typed."""
    return "/".join(max(names, key=len) for names in (option.opts, option.secondary_opts) if names)
