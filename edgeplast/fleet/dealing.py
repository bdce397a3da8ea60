"""Pictures dealt out to simulated devices: each class in shares drawn from a Dirichlet distribution.

Hsu, Qi & Brown, "Measuring the Effects of Non-Identical Data Distribution" (arXiv 1909.06335): the smaller the
concentration, the more each device sees of few classes; 100 is nearly alike, 0.1 nearly one class each.
"""

from __future__ import annotations

import functools

import numpy as np

from edgeplast.errors import InputError, UsageError

_TRIES = 1000


def dealt(labels: np.ndarray, devices: int, concentration: float, seed: int, *, least: int = 4) -> list[np.ndarray]:
    """Return which pictures each device has; every picture is with one of them.

    Args:
        labels: int64 (n,), the class of each picture.
        devices: how many.
        concentration: of the distribution, above 0.
        seed: decides who gets which.
        least: pictures that each device has at least; shares are drawn again until that holds.

    Returns:
        int64 arrays of rising positions.

    Raises:
        UsageError: an argument is out of range.
        InputError: there are too few pictures.
    """
    if devices < 1 or not 0 < concentration <= 1e6 or seed < 0:
        raise UsageError(
            f"Cannot deal pictures to {devices} devices with concentration {concentration:g} and seed {seed}; give 1 "
            "device or more, a concentration above 0 (0.3, say) and a seed from 0."
        )
    if len(labels) < devices * least:
        raise InputError(
            f"{len(labels)} pictures are too few for {devices} devices of at least {least} each. Take fewer devices."
        )
    wanted = np.ascontiguousarray(labels, np.int64)
    return [hand.copy() for hand in _dealt(wanted.tobytes(), devices, concentration, seed, least)]


@functools.lru_cache(maxsize=4)
def _dealt(packed: bytes, devices: int, concentration: float, seed: int, least: int) -> tuple[np.ndarray, ...]:
    """Deal, once in a process: a simulation asks for the same in every message, and many devices take many tries."""
    labels = np.frombuffer(packed, np.int64)
    rng = np.random.default_rng(seed)
    best: list[list[int]] = []
    for _ in range(_TRIES):
        hands: list[list[int]] = [[] for _ in range(devices)]
        for label in np.unique(labels).tolist():
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(devices, concentration))
            cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for hand, part in zip(hands, np.split(members, cuts), strict=True):
                hand.extend(part.tolist())
        if not best or min(map(len, hands)) > min(map(len, best)):
            best = hands
        if min(map(len, best)) >= least:
            break
    while min(map(len, best)) < least:  # many devices and few pictures: the richest give
        poorest, richest = min(best, key=len), max(best, key=len)
        poorest.append(richest.pop())
    return tuple(np.sort(np.asarray(hand, np.int64)) for hand in best)
