"""Where bundled data lies, in a wheel or in a checkout, and where users add their own.

The search path for specs is, first match wins:

1. every directory in ``KVPLAN_SPECS`` (``os.pathsep``-separated);
2. the user's directory, ``<config dir>/kvplan/model_specs``;
3. the bundled ``model_specs``.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from kvplan.errors import EnvironmentLacks

NAMED = "KVPLAN_SPECS"
"""Environment variable with directories of the user's own specs."""

_PACKAGE = Path(__file__).resolve().parent


@cache
def bundled_specs() -> Path:
    """The ``model_specs`` directory that came with this installation.

    Raises:
        EnvironmentLacks: the installation is broken (a wheel without its data).
    """
    for candidate in (_PACKAGE / "_bundled" / "model_specs", _PACKAGE.parent / "model_specs"):
        if (candidate / "models").is_dir():
            return candidate
    raise EnvironmentLacks(
        "this kvplan installation has no bundled model_specs",
        where=str(_PACKAGE),
        hint="reinstall kvplan, or point KVPLAN_SPECS at a model_specs directory",
    )


def named_specs() -> list[Path]:
    """The directories in ``KVPLAN_SPECS``, whether they exist or not."""
    return [Path(entry) for entry in os.environ.get(NAMED, "").split(os.pathsep) if entry]


def spec_path() -> list[tuple[str, Path]]:
    """``(origin, directory)`` pairs in order of precedence; directories that do not exist are left out."""
    places = [(NAMED, directory) for directory in named_specs()]
    places.append(("user", user_specs()))
    places.append(("bundled", bundled_specs()))
    return [(origin, directory) for origin, directory in places if directory.is_dir()]


def user_specs() -> Path:
    """Where ``kvplan models import`` writes by default (may not exist yet)."""
    from platformdirs import user_config_path

    return user_config_path("kvplan") / "model_specs"
