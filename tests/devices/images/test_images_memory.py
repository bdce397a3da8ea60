"""What a process needs does not grow with the pictures: their number, their size, or the archive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM from /proc")

PRELUDE = f"""
import json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "devices")!r}]
from pathlib import Path
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images import *
how = Preprocessing(image_size=(32, 32), mean=(.5, .5, .5), std=(.5, .5, .5))
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
def through(path, split=None):
    unreadable = Unreadable()
    images = open_images(Path(path), split)
    seen = sum(len(b) for b in batches(images, how, 8, order=epoch_order(len(images), 0, 0), unreadable=unreadable))
    assert seen == len(images) and not unreadable.count, unreadable.examples
    return peak()
"""


def measure(script: str, *arguments: object) -> list[int]:
    run = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_twenty_times_as_many_files_take_the_same_memory(make_tar, ending):
    data = encoded(picture(0, (64, 48)), "JPEG")
    paths = [
        make_tar({f"train/{i % 7}/{i:06d}.jpg": data for i in range(count)}, f"{count}.{ending}")
        for count in (200, 4000)
    ]
    few, many = (measure("print(json.dumps([peak(), through(sys.argv[1])]))", path) for path in paths)
    assert many[1] < 1.05 * few[1]  # 100 bytes a picture would be 1 %, decoded pictures 60 %


def test_an_array_is_never_in_memory(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (1100, 128, 128, 3), dtype=np.uint8)  # 54 MB
    labels = np.arange(len(rows)) % 3
    np.savez(tmp_path / "stored.npz", train_images=rows, train_labels=labels)
    rows[:] = np.arange(128, dtype=np.uint8)[:, None]
    np.savez_compressed(tmp_path / "deflated.npz", train_images=rows, train_labels=labels)
    np.savez(tmp_path / "small.npz", train_images=rows[:10], train_labels=labels[:10])
    small, *large = (
        measure("print(json.dumps([through(sys.argv[1])]))", tmp_path / f"{name}.npz")[0]
        for name in ("small", "stored", "deflated")
    )
    assert max(large) < small + rows.nbytes / 10


def test_a_photo_of_50_megapixels_fits_beside_the_rest(tmp_path):
    (tmp_path / "a").mkdir()
    # Grey here, colour in the file: Pillow needs 200 MB for the picture that a device must decode in a few.
    photo = Image.linear_gradient("L").resize((8660, 5774))
    Image.merge("RGB", (photo, photo, photo)).save(tmp_path / "a" / "photo.jpg", quality=50)
    script = """
plain = peak()
images = open_images(Path(sys.argv[1]))
batch = next(batches(images, how, 1, unreadable=Unreadable()))
evaluated = peak()
batch = next(batches(images, how, 1, augmentation=Augmentation(), unreadable=Unreadable()))
augmented = peak()
reason = ""
try:
    images.allowing(64 << 20).open(0)
except UnreadableImageError as error:
    reason = error.reason
assert "8660 x 5774 pixels takes 191 MiB and 64 MiB are allowed; shrink the picture" in reason, reason
print(json.dumps([plain, evaluated, augmented, peak()]))
"""
    plain, evaluated, augmented, refused = measure(script, tmp_path)
    decoded = 8660 * 5774 * 3
    assert evaluated - plain < decoded / 10
    assert augmented - plain < decoded / 10
    assert refused - augmented < 1 << 20
    assert evaluated < 64 << 20


def test_looking_at_a_folder_loads_no_more_than_it_needs(make_folder):
    script = """
through(sys.argv[1])
heavy = {"torch", "timm", "psutil", "onnxruntime", "tarfile", "zipfile", "PIL.TiffImagePlugin"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    assert measure(script, make_folder({"a": 2, "b": 2})) == []
