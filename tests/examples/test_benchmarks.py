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
        return {"peak_bytes": 10**8, "step_seconds": 0.5, "fastest_step_seconds": 0.4}

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
