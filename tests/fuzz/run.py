"""Hand damaged inputs to every door and print how they ended: ``python tests/fuzz/run.py --inputs 1000000 --seed 0``.

An input is allowed to be accepted, or refused with one of edgeplast's own errors, within 5 seconds and in bounded
memory. ``--door NAME --first N --inputs 1 --loud`` does one input again and shows its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / part) for part in (".", "exporters", "devices", "tests", "tests/fuzz")]

STUCK_SECONDS = 30.0
"""An input that takes this long is ended; those of more than 5 s are tried again alone before they count."""

_AT_ONCE = 20_000
"""Inputs a process handles at most."""


@dataclass
class Tally:
    """How the inputs of one door ended.

    Attributes:
        found: kind (other, memory, time, crash) to what happened, each with the first input that did it.
    """

    door: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    found: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, kind: str, what: str, number: int) -> None:
        """Count one that ended otherwise than it may."""
        self.kinds[kind] += 1
        self.found.setdefault(kind, {}).setdefault(what, number)

    @property
    def is_clean(self) -> bool:
        """Whether every input ended as it may."""
        return not self.kinds


def fuzz(
    corpus: Path, door: str, *, seed: int, first: int, inputs: int, seconds: float = 1e9, loud: bool = False
) -> Tally:
    """Hand inputs to a door, in as many processes, one after the other, as it takes.

    Args:
        corpus: made by ``corpus.make``.
        door: its name.
        seed: of all damage.
        first: number of the first input.
        inputs: how many.
        seconds: after which no further input is begun.
        loud: show tracebacks.
    """
    tally, begin, stop = Tally(door), time.monotonic(), first + inputs
    while first < stop and (left := begin + seconds - time.monotonic()) > 0:
        first = _one_process(corpus, door, seed, first, min(stop, first + _AT_ONCE), tally, left, loud)
    tally.seconds = time.monotonic() - begin
    return tally


def _one_process(
    corpus: Path, door: str, seed: int, first: int, stop: int, tally: Tally, seconds: float, loud: bool
) -> int:
    """Run one process until it has done all, or one ends it; return the number of the next input."""
    told, done, died = _attempt(corpus, door, seed, first, stop, seconds, loud)
    events = [line for line in told if "input" in line]
    for event in events:
        number, kind, what = event["input"], event["kind"], event["what"]
        if kind in ("memory", "time") and stop - first > 1:  # perhaps a busy machine, or those before it
            again = Tally(door)
            _one_process(corpus, door, seed, number, number + 1, again, 1e9, loud)
            if again.is_clean:
                tally.accepted, tally.refused = tally.accepted + again.accepted, tally.refused + again.refused
                continue
        tally.note(kind, what, number)
    if died.startswith("exit code"):
        raise RuntimeError(f"The process for {door} ended with {died}: a fault of the harness. Try --loud.")
    if died:
        number, what = done, died
        if stop - first > 1:
            again = Tally(door)
            _one_process(corpus, door, seed, number, number + 1, again, 1e9, loud)
            if again.is_clean and "second" in what:
                what = ""
        if what:
            tally.note("time" if "second" in what else "crash", what, number)
        done += 1
    counts = next((line["done"] for line in told if "done" in line), None)
    tally.inputs += done - first
    if counts is None:  # it died: all before it that were not told of ended as they may
        tally.refused += max(0, done - first - (1 if died else 0) - len(events))
    else:
        tally.accepted, tally.refused = tally.accepted + counts["accepted"], tally.refused + counts["refused"]
    return done


def _attempt(
    corpus: Path, door: str, seed: int, first: int, stop: int, seconds: float, loud: bool
) -> tuple[list[dict], int, str]:
    """Return what a process told, the number of the input it came to, and how it died (empty: it did not)."""
    shared = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))
    board, told = home / "board", home / "told"
    (home / "place").mkdir()
    board.write_bytes(first.to_bytes(8, "little") * 2)
    words = [corpus, home / "place", door, seed, first, stop, seconds, board]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"FUZZ_LOUD": "1"} if loud else {})
    try:
        with told.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), *map(str, words)], stdout=out, env=environment
            )
            died = _watched(process, board)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        done = int.from_bytes(board.read_bytes()[8:16], "little")
        return lines, done, died
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _watched(process: subprocess.Popen, board: Path) -> str:
    at, since = b"", time.monotonic()
    while True:
        try:
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            now = board.read_bytes()
            if now != at:
                at, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return f"more than {STUCK_SECONDS:.0f} seconds"
            continue
        if code == 0:
            return ""
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def table(tallies: list[Tally]) -> str:
    """The tallies as text, and below what was found, each with the first input that does it."""
    head = ("door", "inputs", "refused", "accepted", "other", "crashes", "memory", "time", "a second")
    rows = [
        (t.door, t.inputs, t.refused, t.accepted, *(t.kinds[k] for k in ("other", "crash", "memory", "time")),
         round(t.inputs / max(t.seconds, 1e-9)))
        for t in tallies
    ]  # fmt: skip
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 8)), ""))
    lines = [f"{name:<14}" + "".join(f"{cell!s:>10}" for cell in cells) for name, *cells in (head, *rows)]
    for t in tallies:
        for kind, found in t.found.items():
            lines += [f"{t.door}, {kind}, first at input {number}: {what}" for what, number in found.items()]
    return "\n".join(lines)


def doors_here() -> list[str]:
    """Names of the doors that can be tried in this environment."""
    from doors import DOORS

    torch = find_spec("torch") is not None
    return [name for name, door in DOORS.items() if (torch or door.on_device) and not name.startswith("several")]


def main() -> int:
    """Parse the command line, run, print; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, over all doors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", help="this one alone (may be repeated)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each door")
    parser.add_argument("--corpus", type=Path, help="folder of the whole examples, made where it is missing")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each door, at most")
    parser.add_argument("--loud", action="store_true", help="show tracebacks")
    given = parser.parse_args()
    from corpus import make
    from doors import DOORS

    with tempfile.TemporaryDirectory() as folder:
        corpus = make((given.corpus or Path(folder) / "corpus").resolve())
        names = given.door or doors_here()
        shares = {name: DOORS[name].share for name in names}
        tallies = []
        for name in names:
            inputs = max(1, round(given.inputs * shares[name] / sum(shares.values())))
            tallies.append(
                fuzz(
                    corpus,
                    name,
                    seed=given.seed,
                    first=given.first,
                    inputs=inputs,
                    seconds=given.seconds,
                    loud=given.loud,
                )
            )
            print(table(tallies[-1:]).rpartition("\nall")[0], flush=True)
    print(f"\n{table(tallies)}")
    return 0 if all(tally.is_clean for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
