"""A short run of damaged inputs through every door, the same ones each time; ``run.py`` beside it does long ones."""

from __future__ import annotations

import random
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import corpus as examples
import doors
import mutations
import run

if TYPE_CHECKING:
    from edgeplast.bundle import Bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, int8_bundle: Bundle) -> Path:
    return examples.make(tmp_path_factory.mktemp("fuzz") / "corpus", int8_bundle)


def _clean(tally: run.Tally, inputs: int) -> None:
    assert tally.is_clean, f"\n{run.table([tally])}"
    assert tally.inputs == tally.accepted + tally.refused == inputs
    assert tally.accepted and tally.refused


def test_what_a_device_reads_is_accepted_or_refused_with_a_reason(corpus: Path) -> None:
    _clean(run.fuzz(corpus, "several", seed=0, first=0, inputs=700), 700)


@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_so_is_what_a_workstation_reads(corpus: Path) -> None:
    _clean(run.fuzz(corpus, "several offline", seed=0, first=0, inputs=150), 150)


@pytest.mark.slow
@pytest.mark.parametrize("door", run.doors_here())
def test_each_door_for_longer(corpus: Path, door: str) -> None:
    inputs = round(10_000 * doors.DOORS[door].share)
    tally = run.fuzz(corpus, door, seed=1, first=0, inputs=inputs)
    assert tally.is_clean and tally.inputs == inputs, f"\n{run.table([tally])}"


def test_the_same_number_makes_the_same_damage() -> None:
    document = mutations.parsed(b'{"a": [1, 2, {"b": "c"}], "d": 1.5}')
    for damage in (
        lambda rng: mutations.in_json(rng, document),
        lambda rng: mutations.blind(rng, bytes(range(256)), [b"other"]),
        lambda rng: mutations.in_tar(rng, [("a/1.png", b"x" * 700), ("b/1.png", b"y")], packed=False),
    ):
        assert damage(random.Random("0:x:5")) == damage(random.Random("0:x:5"))
        assert len({damage(random.Random(f"0:x:{i}")) for i in range(50)}) > 25


def _planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> run.Tally:
    """Run ten inputs through the door for profiles, with a fault planted into number 3."""
    harness = Path(run.__file__).parent
    for file in harness.glob("*.py"):
        text = file.read_text()
        if file.name == "doors.py":
            text = text.replace(
                '        path = self.write("my.toml"', f'        {fault}\n        path = self.write("my.toml"'
            )
            assert fault in text
        text = text.replace("Path(__file__).resolve().parents[2]", f"Path({str(harness.parents[1])!r})")
        (tmp_path / file.name).write_text(text.replace('"tests/fuzz"', f"{str(tmp_path)!r}"))
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "STUCK_SECONDS", 2.0)
    return run.fuzz(tmp_path, "profiles", seed=0, first=0, inputs=10)


@pytest.mark.parametrize(
    ("fault", "kind", "what"),
    [
        ("if rng.number == 3: {}['x']", "other", "KeyError"),
        ("if rng.number == 3: os.abort()", "crash", "signal SIGABRT"),
        ("if rng.number == 3: self.kept = bytes([1]) * (200 << 20)", "memory", "MiB"),
        ("while rng.number == 3: pass", "time", "seconds"),
    ],
)
def test_the_harness_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, kind: str, what: str) -> None:
    tally = _planted(tmp_path, monkeypatch, fault)
    assert tally.inputs == 10 and dict(tally.kinds) == {kind: 1}
    ((found, number),) = tally.found[kind].items()
    assert number == 3 and what in found
