"""Where frames come from: a folder that is played over and over, or a camera."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeplast.errors import InputError, MissingExtraError
from edgeplast_devices.images import UnreadableImageError, open_unlabelled

Frames = Generator[np.ndarray, None, None]
"""uint8 arrays (H, W, 3), RGB."""

MOST_PIXELS = 640
"""Of the longer side: the page and the model need no more, and the budget is one."""


def folder_frames(folder: Path) -> Frames:
    """Play the pictures of a folder over and over, in order of name; those that cannot be read are left out.

    Raises:
        InputError: there is none.
    """
    pictures = open_unlabelled(folder)

    def play() -> Frames:
        while True:
            shown = 0
            for index in range(len(pictures)):
                with contextlib.suppress(UnreadableImageError):
                    picture: Any = pictures.open(index, at_least=(MOST_PIXELS // 2, MOST_PIXELS // 2))
                    yield smaller(picture)
                    shown += 1
            if not shown:
                raise InputError(f"Not one picture of {folder} can be read.")

    return play()


def camera_frames(number: int) -> Frames:
    """Read a camera.

    Raises:
        MissingExtraError: OpenCV is not installed.
        InputError: there is no such camera.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "A camera is read by OpenCV, which is not installed: pip install opencv-python-headless. "
            "Or play a folder of pictures: --frames FOLDER"
        ) from error
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise InputError(f"There is no camera {number}. Cameras are counted from 0; --frames FOLDER plays pictures.")

    def read() -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = camera.read()
                if not there:
                    raise InputError(f"Camera {number} gives no more frames.")
                yield smaller(Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1])))  # it is BGR
        finally:
            camera.release()

    return read()  # type: ignore[return-value]


def smaller(picture: Image.Image) -> np.ndarray:
    """Return a picture as an array whose longer side has ``MOST_PIXELS`` at most."""
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return np.asarray(picture)
