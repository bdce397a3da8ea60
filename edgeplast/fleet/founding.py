"""``edgeplast fleet init``: a Flower app as a folder of a pyproject and two small files that call this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError
from edgeplast.files import write_bytes
from edgeplast.fleet.settings import Settings
from edgeplast.outputs import building_folder, refuse_existing

_PROJECT = """\
# A fleet of devices that learn one model: {model}, {classes} classes.
# Flower reads this file; edgeplast reads [tool.flwr.app.config], whose values --run-config changes for one run.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "Federated learning with edgeplast"
license = "Apache-2.0"
dependencies = []  # edgeplast[fleet,stock] is installed on server and devices already: nothing is downloaded

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "edgeplast"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{config}

# `flwr run` moves this connection to Flower's own configuration file the first time, and makes it the default there.
[tool.flwr.federations]
default = "local-simulation"

[tool.flwr.federations.local-simulation]
address = ":local:"
options.num-supernodes = {devices}
options.backend.client-resources.num-cpus = 1
"""

_CLIENT = '''\
"""What runs on each device: adapt's own loop for a few steps a round."""

from edgeplast.fleet.client import client_app

app = client_app()
'''

_SERVER = '''\
"""What runs on the server: Flower's strategy, checks of what comes in, a bundle and a report after each round."""

from edgeplast.fleet.server import server_app

app = server_app()
'''

PACKAGE = "edgeplast_fleet"


def write_app(
    bundle: Path,
    into: Path,
    *,
    devices: int = 10,
    force: bool = False,
    **settings: Any,
) -> Settings:
    """Write the app of a fleet.

    Args:
        bundle: that the fleet starts from; verified.
        into: folder to write.
        devices: of a simulation.
        force: replace what is there.
        settings: of :class:`Settings`, beside ``bundle`` and ``output`` (by default ``rounds`` beside the app).

    Returns:
        the settings, with whole paths: Flower's programs run where they like.

    Raises:
        UsageError: ``into`` is there, or a setting is out of range.
        InputError, DamagedError: of the bundle.
    """
    if not 1 <= devices <= 1_000_000:
        raise UsageError(f"--devices {devices} is out of range; give 1 to 1000000 simulated devices.")
    opened = Bundle.open(bundle, trusted=settings.get("trusted") or None)
    refuse_existing(into, force=force)
    whole = into.absolute()
    paths = {
        key: str(Path(settings[key]).absolute())
        for key in ("data", "test", "output", "trusted", "sign")
        if settings.get(key)
    }
    output = paths.pop("output", str(whole.with_name(f"{whole.name}-rounds")))
    values: dict[str, Any] = {**settings, **paths, "bundle": str(bundle.absolute()), "output": output}
    chosen = Settings(**values)
    lines = (f"{key} = {_toml(value)}" for key, value in chosen.config().items())
    project = _PROJECT.format(
        model=_comment(opened.manifest.model),
        classes=len(opened.manifest.classes),
        name="edgeplast-fleet",
        package=PACKAGE,
        config="\n".join(lines),
        devices=devices,
    )
    with building_folder(into, force=force) as folder:
        write_bytes(folder / "pyproject.toml", project.encode())
        write_bytes(
            folder / PACKAGE / "__init__.py", b'"""The Flower app of a fleet; edgeplast fleet init wrote it."""\n'
        )
        write_bytes(folder / PACKAGE / "client_app.py", _CLIENT.encode())
        write_bytes(folder / PACKAGE / "server_app.py", _SERVER.encode())
    return chosen


def _toml(value: bool | int | float | str) -> str:
    """Return a value as TOML writes it; its basic strings are JSON's, but for what JSON leaves unescaped."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
