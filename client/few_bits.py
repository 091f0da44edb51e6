"""What frozen weights of few bits need (`training.frozen`), for one institution's settings as for the training itself; without torch."""

from __future__ import annotations

from importlib.util import find_spec

from dictpfl.common.errors import ConfigError


def require_bitsandbytes(frozen: str = "8 or 4 bits", place: str = "the configuration") -> None:
    """Refuse weights of few bits on a machine that cannot make them.

    Args:
        frozen: value of `frozen` that asks for them.
        place: file in which it can be set to something else.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"training.frozen of {frozen} needs bitsandbytes, which is not installed: pip install 'dictpfl[quantised]', or set "
            f'frozen = "full" in {place}'
        )
