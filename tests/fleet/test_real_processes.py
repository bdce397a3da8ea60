"""One SuperLink, three SuperNodes and Flower's own commands on loopback: one device dies, one sends what is no number.

Slow, and skipped without Flower: ``pip install 'edgeplast[fleet,stock]' pytest`` in an environment of its own, a bundle
and pictures of the tests in ``EDGEPLAST_TEST_BUNDLES`` (torch makes them), then ``pytest -m slow tests/fleet``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower_processes import Fleet, end, report, share, until, with_flower

from edgeplast.bundle import Bundle
from edgeplast.fleet.founding import write_app
from edgeplast.fleet.report import FleetReport
from edgeplast_devices.evaluating import evaluate
from edgeplast_devices.images import open_images

pytestmark = with_flower

_POISON = '''

def poisoned(message, context, go_on):
    """What a broken device would send."""
    import numpy as np
    from edgeplast.fleet.flower import arrays_of, record_of

    answer = go_on(message, context)
    if context.node_config.get("name") == "broken" and "arrays" in answer.content:
        arrays = arrays_of(answer.content["arrays"])
        arrays[next(iter(arrays))][...] = np.nan
        answer.content["arrays"] = record_of(arrays)
    return answer


app = client_app([poisoned])
'''


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path)
    try:
        yield found
    finally:
        found.end()


def test_one_device_dies_and_one_sends_nan_and_the_run_ends_well(
    fleet: Fleet, bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    settings = write_app(bundle.path, app, rounds=4, local_steps=12, least_devices=2, round_seconds=120.0)
    client = app / "edgeplast_fleet" / "client_app.py"
    client.write_text(client.read_text() + _POISON)
    fleet.link()
    nodes = {
        name: fleet.node(name, bundle.path, share(blobs, tmp_path / f"pictures-{name}", number))
        for number, name in enumerate(("steady", "broken", "dying"))
    }
    until(lambda: all(fleet.said(name, "Starting Flower SuperNode") for name in nodes), 60, "nodes", fleet)
    time.sleep(3)
    fleet.run(app)
    until(lambda: any((tmp_path / "dying").glob("round-*.partial")), 120, "the device that is to die, at work", fleet)
    end(nodes["dying"], signal.SIGKILL)
    rounds = Path(settings.output)
    until(lambda: len(report(rounds)) == 4, 400, "the fourth round", fleet)
    found = FleetReport.read(rounds / "fleet.json")
    for each in found.rounds:
        by_name = {device.device: device for device in each.devices}
        assert by_name["steady"].taken and 0 < (by_name["steady"].peak_bytes or 0) <= 512 << 20
        if "broken" in by_name:
            assert not by_name["broken"].taken and "no finite number" in by_name["broken"].reason
    assert any("broken" in {device.device for device in each.devices} for each in found.rounds)
    left = [device for device in found.rounds[0].devices if not device.taken]
    assert len(left) == 2 and all(device.reason for device in left)
    last = Bundle.open(rounds / "round-004")
    before, after = (evaluate(each, open_images(blobs, "test")).accuracy for each in (bundle, last))
    assert after > before
