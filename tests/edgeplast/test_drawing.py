"""Which pictures are drawn to be measured on, and that drawing few of many takes little memory beside them."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_models import blob, truncated_png

from edgeplast.drawing import Examples, Picture, draw_pairs
from edgeplast.errors import FallbackWarning
from edgeplast.prepared_images import PreparedImages
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images import ImageSet

MANY = 100_000
HOW = Preprocessing(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Numbers:
    """So many pictures that are nothing but their number."""

    classes: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self.labels = np.full(count, -1)

    def __len__(self) -> int:
        return len(self.labels)

    def tensor(self, index: int) -> np.ndarray:
        return np.full((1, 1, 1), index, np.float32)


def whole_passes(images: Examples, reference: Examples | None, pairs: int, seed: int) -> list[tuple[Picture, Picture]]:
    """What is to be drawn, said plainly: pairs of whole passes, of which the first ones count."""
    rng = np.random.default_rng(seed)
    drawn: list[tuple[Picture, Picture]] = []
    while len(drawn) < pairs:
        if reference is None:
            order = rng.permutation(len(images)).tolist()
            drawn += [((images, i), (images, j)) for i, j in zip(order[::2], order[1::2], strict=False)]
        else:
            first, second = rng.permutation(len(reference)).tolist(), rng.permutation(len(images)).tolist()
            drawn += [((reference, i), (images, j)) for i, j in zip(first, second, strict=False)]
    return drawn[:pairs]


@pytest.mark.parametrize("count", [4, 5, 8, 33, 1000])
@pytest.mark.parametrize("pairs", [2, 4, 8, 9, 32])
def test_pairs_are_the_first_ones_of_whole_passes(count: int, pairs: int) -> None:
    images, reference = Numbers(count), Numbers(7)
    for seed in range(3):
        assert draw_pairs(images, None, pairs, seed) == whole_passes(images, None, pairs, seed)
        assert draw_pairs(images, reference, pairs, seed) == whole_passes(images, reference, pairs, seed)


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("across", [False, True])
def test_a_few_pairs_of_many_pictures_take_no_more_than_their_order(across: bool) -> None:
    images, order = Numbers(MANY), 8 * MANY
    np.random.default_rng(0)
    assert peak_bytes(lambda: draw_pairs(images, images if across else None, 32, 0)) < (2.2 if across else 1.2) * order


def test_a_picture_of_many_takes_what_one_of_few_takes() -> None:
    one = ImageSet.of([blob("red", 1)], ["red"], ("blue", "red"))
    few, many = (PreparedImages(one.subset(np.zeros(count, np.int64)), HOW) for count in (2, MANY))
    few.tensor(1), many.tensor(1)
    assert peak_bytes(lambda: many.tensor(MANY - 1)) < 1.1 * peak_bytes(lambda: few.tensor(1)) + 4096


def test_what_stands_in_for_a_picture_is_the_next_one_of_its_class_round_the_end(tmp_path: Path) -> None:
    (damaged := tmp_path / "damaged.png").write_bytes(truncated_png())
    images = ImageSet.of(
        [blob("blue", 1), blob("red", 2), blob("blue", 3), damaged, blob("red", 4)],
        ["blue", "red", "blue", "blue", "red"],
    )
    prepared = PreparedImages(images, HOW)
    with pytest.warns(FallbackWarning, match=r"another picture of its class stands in for it"):
        np.testing.assert_array_equal(prepared.tensor(3), prepared.tensor(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        assert not np.array_equal(prepared.tensor(3), prepared.tensor(2))
