"""Pictures that a Learner is calibrated on and never learns from: they stay, so that it can be calibrated again.

How sure a model is and when it does not know belong to its weights: after each ``learn`` both are fitted anew, also in
a Learner that was opened again. So the pictures lie in ``<output>.held-out``, as examples do beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from edgeplast_devices.examples import Examples
from edgeplast_devices.images import ImageSet, UnreadableImageError
from edgeplast_devices.images.sampling import evenly_spread

MOST_PICTURES = 512
"""That are kept: the share of known pictures called unknown is then told to a point (one standard error at 5 %)."""


class HeldOut:
    """The pictures that a Learner was calibrated on last.

    Args:
        examples: the folder in which they lie.

    Attributes:
        examples: as given.
        keep: height and width in pixels below which no picture is scaled.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples, self.keep = examples, examples.keep

    def know(self, classes: Sequence[str]) -> None:
        """Take class names, in order, in the place of those that were known."""
        self.examples.know(classes)

    def images(self) -> ImageSet | None:
        """Return them as a set; None where there are none."""
        found = self.examples.images()
        return found if len(found) else None

    @contextlib.contextmanager
    def exchanged(self, images: ImageSet, opened: Callable[[ImageSet, int], Image.Image]) -> Iterator[None]:
        """Let pictures take the place of those that were there, once the block ends well; else all is as it was.

        Killed in between both are there: more pictures that were not learned from.

        Args:
            images: labelled; of many some are kept, evenly spread, and none that cannot be read.
            opened: decodes one.

        Raises:
            DiskFullError: there is no room.
        """
        before, made = self.examples.files(), []
        try:
            for index in evenly_spread(len(images), MOST_PICTURES).tolist():
                with contextlib.suppress(UnreadableImageError):
                    made.append(self.examples.add(opened(images, index), int(images.labels[index])))
            yield
        except BaseException:
            self.examples.remove(made)
            raise
        self.examples.remove(before)
