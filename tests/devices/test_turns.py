"""Turns are taken in the order in which they were asked for."""

from __future__ import annotations

import threading
import time

from edgeplast_devices.turns import Turns


def test_whoever_waits_comes_before_whoever_has_just_had_it() -> None:
    turns, order = Turns(), []
    asked = threading.Event()

    def camera() -> None:
        asked.set()
        with turns:
            order.append("camera")

    thread = threading.Thread(target=camera)
    with turns:
        thread.start()
        assert asked.wait(10)
        while not turns._waiting:
            time.sleep(0.001)
        order.append("loop")
    with turns:  # at once: a plain lock would be given to this thread again
        order.append("loop")
    thread.join()
    assert order == ["loop", "camera", "loop"]


def test_one_at_a_time_whatever_fails_in_between() -> None:
    turns, inside, most = Turns(), [0], []

    def work(number: int) -> None:
        for i in range(200):
            try:
                with turns:
                    inside[0] += 1
                    most.append(inside[0])
                    inside[0] -= 1
                    if (i + number) % 7 == 0:
                        raise ValueError
            except ValueError:
                pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 1200 and max(most) == 1
