"""The round on the first screen of the package runs as it stands, and is short enough to be read."""

import doctest
import subprocess
import sys

import dictpfl


def test_the_round_on_the_first_screen_runs() -> None:
    result = doctest.testmod(dictpfl, raise_on_error=False)
    assert result.attempted > 20
    assert result.failed == 0


def test_it_is_one_screen() -> None:
    text = dictpfl.__doc__ or ""
    assert len(text[text.index("A round, step by step") :].splitlines()) < 60


def test_it_costs_nothing_to_import() -> None:
    loaded = "import dictpfl, sys; print({'numpy', 'tenseal', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
