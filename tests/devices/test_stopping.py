"""A run of a graph that another thread ends: it ends with the reason, and the next one goes through."""

from __future__ import annotations

import threading

from edgeplast_devices.stopping import Stop


class How:
    """Options of a run; whoever gives the order to end it is interrupted by ``meanwhile``."""

    def __init__(self) -> None:
        self._terminate = False
        self.meanwhile: threading.Thread | None = None

    @property
    def terminate(self) -> bool:
        return self._terminate

    @terminate.setter
    def terminate(self, wanted: bool) -> None:
        if wanted and self.meanwhile is not None:
            self.meanwhile.start()
            self.meanwhile.join(0.2)
        self._terminate = wanted


def test_a_reason_is_given_once_and_the_next_run_goes_through() -> None:
    how = How()
    stop = Stop(how)
    assert stop.taken() == "" and not how.terminate
    stop.ask("too much")
    assert how.terminate and stop.taken() == "too much"
    assert not how.terminate and stop.taken() == ""


def test_a_run_that_ends_while_it_is_asked_to_leaves_no_order_without_a_reason() -> None:
    how, found = How(), list[str]()
    stop = Stop(how)
    how.meanwhile = threading.Thread(target=lambda: found.append(stop.taken()))
    stop.ask("too much")
    how.meanwhile.join()
    assert found == ["too much"] and not how.terminate
