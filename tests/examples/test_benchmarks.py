"""Benchmarks: one contestant that fails takes no other's results with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_what_fails_is_named_and_the_exit_code_tells(capsys: pytest.CaptureFixture[str]) -> None:
    from failures import Failures

    failures, done = Failures(), []
    for name in ("first", "broken", "gone", "last"):
        with failures.noted(name):
            if name == "broken":
                raise ValueError("no such graph")
            if name == "gone":
                sys.exit("left early")
            done.append(name)
    assert done == ["first", "last"]
    said = capsys.readouterr().err
    assert "failed: broken: no such graph" in said and "failed: gone: left early" in said
    with pytest.raises(SystemExit, match=r"2 failed: broken, gone\. The other results stand\."):
        failures.leave()


def test_an_interruption_ends_everything() -> None:
    from failures import Failures

    with pytest.raises(KeyboardInterrupt), Failures().noted("any"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("broken", ["prepare-artifacts", "ort-artifacts", "pytorch"])
def test_step_cost_prints_who_got_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    import step_cost

    tried: list[str] = []

    def spawn(name: str, folder: str, python: str, which: list[str]) -> dict[str, Any]:
        assert which == ["--model", "vit_tiny_patch16_224", "--train", "attn"]
        tried.append(name)
        if name == broken:
            raise RuntimeError("unsupported model IR version")
        return {"peak_bytes": 10**8, "step_seconds": 0.5, "fastest_step_seconds": 0.4, "slow_share": 0.25}

    monkeypatch.setattr(step_cost, "_spawn", spawn)
    contestants = ["pytorch", "ort-artifacts", "edgeplast"]
    monkeypatch.setattr(sys, "argv", ["step_cost.py", "--rounds", "2", "--only", *contestants])
    with pytest.raises(SystemExit, match="1 failed"):
        step_cost.main()
    shown, said = capsys.readouterr()
    lost = "ort-artifacts" if "artifacts" in broken else broken
    assert f"failed: {lost}: unsupported model IR version" in said and tried.count(broken) == 1
    for name in contestants:
        assert (f"\n{name} " in shown) == (name != lost), name
    assert shown.count(" 25%\n") == len(contestants) - 1


def test_a_fleets_table_has_a_row_for_each_way() -> None:
    import fleet

    run = {"set": "cells", "trained": "head", "devices": 10, "rounds": 3, "local_steps": 4, "learning_rate": 1e-3}
    run["numbers_that_travel"] = 1351
    runs = [
        run | {"way": "fedavg", "accuracy": 0.9, "bytes_up": 10**6, "bytes_down": 2 * 10**6, "round_seconds": 20.0},
        run | {"way": "fedavg", "accuracy": 1.0, "bytes_up": 10**6, "bytes_down": 2 * 10**6, "round_seconds": 22.0},
        run | {"way": "pooled", "accuracy": 0.97},
    ]
    rows = fleet.table(runs).splitlines()[2:]
    assert rows == [
        "| cells | head | fedavg | 10 | 3 × 4 | 0.001 | 1,351 | 95.0 (2) | 2.9 | 21 |",
        "| cells | head | pooled | 10 | 3 × 4 | 0.001 | 1,351 | 97.0 (1) | – | – |",
    ]


def test_a_simulated_device_alone_has_the_pictures_that_it_has_in_the_fleet(tmp_path: Path) -> None:
    from argparse import Namespace

    import fleet
    from small_models import blob_folder

    from edgeplast.fleet.dealing import dealt
    from edgeplast_devices.images import open_images

    data = blob_folder(tmp_path / "blobs")
    options = Namespace(work=tmp_path, devices=3, spread=0.3)
    places = [fleet.one_device(options, data, 0, number) for number in range(3)]
    hands = dealt(open_images(data / "train", None).labels, 3, 0.3, 0)
    assert [len(list(place.glob("*/*.png"))) for place in places] == [len(hand) for hand in hands]


def test_rescorings_table_has_a_row_for_each_way_and_its_difference_to_static() -> None:
    import rescoring

    run: dict[str, Any] = {"set": "aerial", "start": "best", "planned": "fc1 0-11, norm, head", "kinds": []}
    run |= {"peak_bytes": 150 << 20, "seconds": 20.0, "scoring_seconds": 0.0}
    ways = {"static": (["full"], 0.70, 0.0), "every epoch": (["full", "late"], 0.72, 1.0)}
    runs = [
        run | {"seed": seed, "way": way, "tiers": tiers, "accuracy": accuracy + seed / 100, "scoring_seconds": took}
        for way, (tiers, accuracy, took) in ways.items()
        for seed in range(2)
    ]
    rows = rescoring.table(runs).splitlines()[2:]
    assert rows == [
        "| best | static | fc1 0-11, norm, head | 70.5 (2) | – | – | 150 |",
        "| best | every epoch | fc1 0-11, norm, head, late | 72.5 (2) | +2.0 ± 0.0 (2) | 5.0 | 150 |",
    ]


def test_a_contestant_is_shown_at_the_rate_that_was_picked_for_it() -> None:
    from equal_memory import at_picked_rates
    from paired import table

    run: dict[str, Any] = {"set": "aerial", "budget": "160MB", "contestant": "attn", "seed": 0, "accuracy": 0.5}
    run |= {"calibration_error": 0.1, "peak_bytes": 150 << 20, "rate": 1.0, "kept_answers": 0.4}
    tried = [
        run | {"spare_loss": 0.9},
        run | {"spare_loss": 0.7, "rate": 0.3, "accuracy": 0.6, "kept_answers": 0.8},
        run | {"seed": 1, "accuracy": 0.1},  # of before the search
        run | {"seed": 1, "rate": 0.3, "accuracy": 0.8},
        run | {"contestant": "head", "accuracy": 0.3},  # nothing else was tried
    ]
    rows = table(at_picked_rates(tried, "aerial"), ["attn", "head"]).splitlines()
    assert rows[0].endswith("| over attn | calibration error | answers kept | peak, MiB |")
    assert rows[2] == "| attn | 70.0 (2) | – | 0.100 | 60 % | 150 |"
    assert rows[3].startswith("| head | 30.0 (1) |")


@pytest.mark.parametrize("seconds", [0.03, 0.55, 41.0, 200.0, 7500.0])
def test_seconds_that_adapt_told_are_read_as_they_were_written(seconds: float) -> None:
    from budget_sweep import in_seconds

    from edgeplast.units import format_seconds

    assert in_seconds(format_seconds(seconds)) == pytest.approx(seconds)
