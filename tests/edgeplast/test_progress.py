"""What verbs tell while they work: bytes that are verified and copied, and what comes before the first picture."""

from __future__ import annotations

from pathlib import Path

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.progress import LOADING, Beside, Bytes, shown


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int, int]] = []

    def __call__(self, activity: str, done: int, total: int) -> None:
        self.all.append((activity, done, total))

    def of(self, activity: str) -> list[tuple[int, int]]:
        return [(done, total) for each, done, total in self.all if each == activity]


def test_opening_and_copying_a_bundle_tell_of_all_its_bytes(bundle: Bundle, tmp_path: Path) -> None:
    heard = Heard()
    total = sum(stored.bytes for stored in bundle.manifest.files.values())
    opened = Bundle.open(bundle.path, progress=heard)
    opened.copied(tmp_path, heard)
    opened.copied(tmp_path, heard)  # all of it is there: that is told, too
    verified, copied = heard.of(f"verifying {bundle.path}"), heard.of("copying the bundle")
    assert verified[-1] == (total, total) and verified == sorted(verified)
    assert [done for done, _ in copied].count(total) == 2
    assert all(isinstance(each, Bytes) for _, *amounts in heard.all for each in amounts)


def test_evaluating_tells_before_the_first_picture_what_it_loads(bundle: Bundle, blobs: Path) -> None:
    heard = Heard()
    edgeplast.evaluate(bundle.path, blobs, progress=heard)
    activities = list(dict.fromkeys(activity for activity, _, _ in heard.all))
    assert activities == [f"verifying {bundle.path}", LOADING, "evaluating"]
    assert heard.of(LOADING) == [(0, 2), (1, 2)]
    first, *_, last = heard.of("evaluating")
    assert first[0] == 0 and last[0] == last[1] > 0


def test_what_stands_beside_an_activity_is_no_part_of_its_name() -> None:
    one, other = Beside("round 1", "9 min left"), Beside("round 1", "8 min left")
    assert one == other == "round 1" and shown(one) == "round 1 (9 min left)" and shown("round 1") == "round 1"
