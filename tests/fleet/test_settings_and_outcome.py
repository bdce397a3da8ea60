"""A fleet's settings, what it writes after each round, and how a server goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeplast.bundle import Bundle
from edgeplast.errors import DivergedError, InputError, UsageError
from edgeplast.fleet.ledger import SILENT, Ledger
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.report import FleetReport, RoundReport
from edgeplast.fleet.settings import Settings
from edgeplast_devices.weights import read_trainable


def settings(**changed: Any) -> Settings:
    return Settings(**{"bundle": "b", "output": "o", **changed})


def test_an_app_holds_every_setting_by_its_name() -> None:
    config = settings(rounds=3, travel="int8").config()
    assert config["local-steps"] == 8 and config["travel"] == "int8"
    assert Settings.of(config) == settings(rounds=3, travel="int8")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rounds": 0}, r"rounds = 0 is out of range; allowed is 1 to 100000\."),
        ({"share": 1.5}, r"share = 1.5 is out of range; allowed is 0 to 1\."),
        ({"learning_rate": float("nan")}, "learning-rate = nan is out of range"),
        ({"strategy": "fedsgd"}, "Unknown strategy 'fedsgd'.*Known: fedavg, fedprox, fedadam"),
        ({"travel": "int4"}, "Unknown travel 'int4'.*Known: float32, float16, int8"),
        ({"privacy": "full"}, "Unknown privacy 'full'.*Known: none, central, central-on-device, local"),
        ({"memory": "lots"}, "lots"),
        ({"secure": True, "travel": "int8", "least_devices": 3}, "the server can neither unpack nor clip one"),
        ({"secure": True, "strategy": "fedadam", "least_devices": 3}, r"\(here fedadam, float32, none\)"),
        ({"secure": True}, "secure = true needs least-devices of 3 or more .here 2."),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_what_can(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings(**changed)
    with pytest.raises(UsageError, match=said):
        Settings.of({"bundle": "b", "output": "o", **{k.replace("_", "-"): v for k, v in changed.items()}})


@pytest.mark.parametrize("config", [{"output": "o"}, {"bundle": "b", "output": "o", "rounds": "many"},
                                    {"bundle": "b", "output": "o", "epochs": 3}])  # fmt: skip
def test_an_app_that_lacks_a_setting_or_has_another_is_told_what_to_do(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"\[tool.flwr.app.config\], cannot be used: .* edgeplast fleet init"):
        Settings.of(config)


def test_learning_rates_fall_over_the_rounds_from_what_adapt_would_choose(bundle: Bundle) -> None:
    rates = Rates.of(bundle, settings(rounds=10))
    assert rates.at(1) == (rates.peak, rates.head) and rates.peak == 2e-4
    each = [rates.at(number)[0] for number in range(1, 11)]
    assert each == sorted(each, reverse=True) and each[-1] > 0
    assert Rates.of(bundle, settings(learning_rate=0.01)).peak == 0.01


def test_a_bundle_and_a_report_after_each_round(bundle: Bundle, tmp_path: Path) -> None:
    outcome = Outcome(tmp_path / "rounds", bundle, settings())
    weights = {name: array + 1 for name, array in read_trainable(bundle).items()}
    for number in (1, 2):
        written = Bundle.open(outcome.write_bundle(number, weights))
        outcome.add(RoundReport(round=number, seconds=1.0))
        assert written.manifest.adapted_from == bundle.fingerprint
        assert np.array_equal(read_trainable(written)["head.bias"], weights["head.bias"])
    report = FleetReport.read(tmp_path / "rounds" / "fleet.json")
    assert [each.round for each in report.rounds] == [1, 2] and report.server_peak_bytes > 0
    frozen = [tmp_path / "rounds" / name / "frozen.safetensors" for name in ("start", "round-001", "round-002")]
    assert len({path.stat().st_ino for path in frozen}) == 1


def test_weights_that_are_no_numbers_are_never_a_round(bundle: Bundle, tmp_path: Path) -> None:
    outcome = Outcome(tmp_path / "rounds", bundle, settings())
    weights = read_trainable(bundle)
    weights["head.bias"][0] = np.nan
    with pytest.raises(DivergedError):
        outcome.write_bundle(1, weights)
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["fleet.json", "start"]


def test_a_server_that_starts_again_goes_on_after_the_last_round(bundle: Bundle, tmp_path: Path) -> None:
    first = Outcome(tmp_path / "rounds", bundle, settings())
    weights = {name: array + 1 for name, array in read_trainable(bundle).items()}
    first.write_bundle(1, weights)
    first.add(RoundReport(round=1, seconds=1.0))
    first.write_bundle(2, weights)  # killed before it was written down
    again = Outcome(tmp_path / "rounds", bundle, settings(rounds=20))
    assert again.rounds == 1 and np.array_equal(again.weights()["head.bias"], weights["head.bias"])
    with pytest.raises(UsageError, match=r"holds 1 rounds of a fleet with other settings \(travel\)"):
        Outcome(tmp_path / "rounds", bundle, settings(travel="int8"))


def test_a_folder_with_other_things_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"holds no fleet's rounds\. Choose another output"):
        Outcome(tmp_path, bundle, settings())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_round_is_written_down_by_device() -> None:
    ledger = Ledger({1: "node 1", 2: "node 2", 3: "node 3"}, 100)
    ledger.note(1, "kitchen", taken=True, examples=30, sent_bytes=50, loss=float("nan"))
    ledger.note(2, taken=False, reason="w has shape [1] instead of [2]", sent_bytes=50)
    assert ledger.silent() == {3: SILENT}
    ledger.note(1, accuracy=1.0, measured_on=10)
    ledger.note(2, accuracy=0.5, measured_on=30)
    found = ledger.report(4, 1.5, None)
    assert (found.round, found.received_bytes, found.sent_bytes, found.accuracy) == (4, 300, 100, 25 / 40)
    by_name = {each.device: each for each in found.devices}
    assert by_name["kitchen"].taken and by_name["kitchen"].loss is None
    assert by_name["node 2"].reason and by_name["node 2"].accuracy == 0.5
