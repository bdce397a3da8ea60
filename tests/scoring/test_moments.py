"""Streaming moments: exact merging, missing samples, when a ranking counts as settled, and two real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_models import Pictures, score, tiny

from edgeplast.errors import InputError
from edgeplast.moments import Moments, expected_tau, settled
from edgeplast.progress import silent
from edgeplast.scores import ScoreTable
from edgeplast.scoring.moments import accumulate


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.floats(-1e6, 1e6))
def test_merging_parts_gives_the_moments_of_the_whole(sizes: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(offset, 1, size=(n, 3)) for n in sizes]
    total = Moments.none(3)
    for part in parts:
        total = total.merged(Moments.of(part))
    whole = np.concatenate(parts)
    assert (total.count == len(whole)).all()
    if len(whole) > 1:
        np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(total.m2, ((whole - whole.mean(0)) ** 2).sum(0), rtol=1e-6, atol=1e-9)
        error = whole.std(0, ddof=1) / np.sqrt(len(whole))
        np.testing.assert_allclose(total.standard_error, error, rtol=1e-6, atol=1e-9)


def test_missing_samples_count_for_nothing() -> None:
    moments = Moments.of(np.array([[1.0, np.nan], [3.0, 5.0]])).merged(Moments.of(np.array([[5.0, np.nan]])))
    assert moments.count.tolist() == [3, 1]
    assert moments.mean.tolist() == [3, 5]
    assert moments.m2.tolist() == [8, 0]
    assert moments.standard_error[1] == 0


def test_expected_tau_is_what_repeated_measurements_reach() -> None:
    mean, error = np.array([1.0, 1.3, 2.0, 2.1, 4.0]), np.array([0.2, 0.3, 0.1, 0.1, 0.5])
    rng = np.random.default_rng(0)
    i, j = np.triu_indices(5, k=1)
    draws = mean + rng.normal(size=(20_000, 5)) * error
    agree = np.sign(draws[:, j] - draws[:, i]) * np.sign(mean[j] - mean[i])
    assert expected_tau(mean, error, negligible=0) == pytest.approx(agree.mean(), abs=0.01)
    assert expected_tau(mean, np.zeros(5)) == 1
    assert expected_tau(np.ones(3), np.zeros(3), negligible=0) == 0


def test_a_ranking_settles_when_errors_are_small_and_samples_enough() -> None:
    rng = np.random.default_rng(0)
    clear = np.array([1.0, 2.0, 3.0]) + 0.01 * rng.normal(size=(32, 3))
    noisy = np.array([1.0, 1.1, 1.2]) + 3 * rng.normal(size=(32, 3))
    assert settled(Moments.of(clear))
    assert not settled(Moments.of(clear[:31]))
    assert not settled(Moments.of(noisy))


def test_accumulating_stops_early_and_reports_progress() -> None:
    told: list[tuple[str, int, int]] = []
    measure = lambda chunk: np.array([[1.0, 2.0]] * 16) + chunk * 1e-3  # noqa: E731
    total = accumulate(range(9), measure, 2, "test", lambda *args: told.append(args))
    assert total.count.tolist() == [32, 32]
    assert told == [("test", 1, 9), ("test", 2, 9)]
    with pytest.raises(InputError, match="broken"):
        accumulate([0], lambda _: (_ for _ in ()).throw(InputError("broken")), 2, "test", silent)


METHODS = ["plasticity", "plasticity-embedding", "jacobian", "bound", "rgn", "fps"]

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from scoring_models import Pictures, score, tiny
import torch.distributed as dist
import os
images = Pictures(18)
if {broken} and os.environ["RANK"] == "1":
    images.tensor = lambda index: Pictures(1, size=24).tensor(0)
table = score(tiny(), images, others={methods}, pairs=9)
assert not dist.is_initialized()
table.write(Path(sys.argv[1]) / f"{{os.environ['RANK']}}.json")
(Path(sys.argv[1]) / f"{{os.environ['RANK']}}.count").write_text(str(len(images.asked)))
"""


def start(folder: Path, environment: dict[str, str], *, broken: bool = False) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    code = SCRIPT.format(here=str(Path(__file__).parent), broken=broken, methods=METHODS)
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    clean |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=clean | environment, stderr=subprocess.PIPE, text=True
    )


def torchrun_environment() -> list[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [common | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]


def test_two_gloo_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    processes = [start(tmp_path, e) for e in torchrun_environment()]
    images = Pictures(18)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun gives its processes; more of them sum in another order
    try:
        alone = score(tiny(), images, others=METHODS, pairs=9)
    finally:
        torch.set_num_threads(threads)
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    first, second = (ScoreTable.read(tmp_path / f"{name}.json") for name in ("0", "1"))
    for method in alone.methods:
        assert first.by(method) == second.by(method)
        for name, entry in alone.by(method).items():
            merged = first.by(method)[name]
            assert merged.samples == entry.samples
            assert merged.score == pytest.approx(entry.score, rel=1e-12)
            assert merged.standard_error == pytest.approx(entry.standard_error, rel=1e-9)
    for name in ("0", "1"):
        assert int((tmp_path / f"{name}.count").read_text()) < 0.75 * len(images.asked)


def test_an_error_in_one_process_ends_all_of_them(tmp_path: Path) -> None:
    processes = [start(tmp_path, e, broken=True) for e in torchrun_environment()]
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1]
    assert all("picture" in e and "3×24×24" in e for e in errors)
