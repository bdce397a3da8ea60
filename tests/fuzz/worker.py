"""One process that hands damaged inputs to one door, many in one go, and tells its parent how each ended.

What it says on standard output is one JSON object a line: an input that ended otherwise than it may, and at the end
how many there were. Where it stands is in a shared file of 16 bytes, which its parent looks at: the number of the
input, and the one that was over last.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in (".", "exporters", "devices", "tests", "tests/fuzz")]

MOST_SECONDS = 5.0
"""Of a processor, so that a busy machine does not count; its parent looks at the clock on the wall."""

HARD_BYTES = 2 << 30
"""What the process may map beyond what it has mapped when it begins: an input must not take the machine down."""


def random_of(seed: int, door: str, number: int) -> random.Random:
    """The random numbers of one input; nothing else decides it."""
    found = random.Random(f"{seed}:{door}:{number}")
    found.number = number  # type: ignore[attr-defined]
    return found


def main() -> None:
    """Run inputs ``first`` to ``stop - 1`` of a door, as many as there is time for."""
    corpus, place, door_name, seed, first, stop, seconds, board_path = sys.argv[1:]
    said = os.fdopen(os.dup(1), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # what native code writes there
    if not os.environ.get("FUZZ_LOUD"):
        os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    os.environ["EDGEPLAST_DEBUG"] = "1"
    os.chdir(place)
    from doors import DOORS

    door = DOORS[door_name](Path(corpus), Path(place))
    with Path(board_path).open("r+b") as file:
        board = mmap.mmap(file.fileno(), 16)
    _limit()
    counts = {"accepted": 0, "refused": 0}
    for warming in range(door.loading):  # the first ones load what the door needs
        _outcome(door, random_of(int(seed), door_name, -1 - warming))
    before = _peak_bytes()
    end = time.monotonic() + float(seconds)
    for number in range(int(first), int(stop)):
        if time.monotonic() > end:
            break
        board[:8] = number.to_bytes(8, "little")
        kind, what = _outcome(door, random_of(int(seed), door_name, number))
        peak = _peak_bytes()
        board[8:16] = (number + 1).to_bytes(8, "little")
        if kind in counts:
            counts[kind] += 1
        else:
            print(json.dumps({"input": number, "kind": kind, "what": what}), file=said)
        if peak > before + door.growth_bytes:
            print(json.dumps({"input": number, "kind": "memory", "what": f"{(peak - before) >> 20} MiB"}), file=said)
            break
    print(json.dumps({"done": counts}), file=said)
    said.flush()
    os._exit(0)  # whatever threads an input has left behind


def _peak_bytes() -> int:
    """The peak of this process alone: what ``getrusage`` says begins with the size of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def _limit() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (mapped + HARD_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outcome(door: Any, rng: random.Random) -> tuple[str, str]:
    """What became of one input: accepted, refused, other, memory or time; and the last lines of a traceback."""
    from edgeplast.errors import EdgeplastError

    begin = time.process_time()
    try:
        door.once(rng)
        kind, what = "accepted", ""
    except EdgeplastError as error:
        kind, what = "refused", ""
        if len(str(error)) > 20_000 or not str(error):
            kind, what = "other", f"a message of {len(str(error))} characters: {str(error)[:200]}"
    except MemoryError:
        kind, what = "memory", traceback.format_exc()[-1500:]
    except BaseException as error:
        kind, what = "other", f"{type(error).__name__} at {_place(error)}: {str(error)[:300]}"
        if os.environ.get("FUZZ_LOUD"):
            traceback.print_exc()
    seconds = time.process_time() - begin
    if seconds > MOST_SECONDS and kind != "other":
        return "time", f"{seconds:.1f} s"
    return kind, what


def _place(error: BaseException) -> str:
    """The line of the innermost frame in this project's own code, and of the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "edgeplast" in frame.filename and "site-packages" not in frame.filename]
    shown = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (own or frames)[-1:] + frames[-1:]]
    return " < ".join(dict.fromkeys(shown))


if __name__ == "__main__":
    main()
