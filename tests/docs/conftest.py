"""A desk as a reader of the pages has it before the first command: weights, pictures, and what earlier pages made."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import MODEL, SIDE
from small_models import CLASSES, blob_folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies on the desk, made once."""
    torch = pytest.importorskip("torch", reason="pages begin on a workstation")
    from safetensors.torch import save_file

    import edgeplast
    from edgeplast.errors import MissingExtraError
    from edgeplast.models import import_timm, load_model
    from edgeplast_devices.options import TrainingOptions

    desk = tmp_path_factory.mktemp("desk")
    for name in ("photos", "next-week", "new-pictures", "old"):
        blob_folder(desk / name)
    blob_folder(desk / "sightings", train=8, test=0, classes=CLASSES[:2])
    (desk / "sightings" / CLASSES[0]).rename(desk / "sightings" / "lynx")
    shutil.copy(desk / "photos" / "test" / CLASSES[0] / "000.png", desk / "photo.jpg")  # told by its contents
    torch.manual_seed(0)
    model = import_timm().create_model(MODEL, img_size=int(SIDE), num_classes=len(CLASSES), depth=3)
    save_file(model.state_dict(), desk / "weights.safetensors")
    model = load_model(
        MODEL, checkpoint=desk / "weights.safetensors", image_size=(int(SIDE),) * 2, options={"depth": 3}
    )
    scores = edgeplast.score(model, desk / "photos", pairs=4)
    scores.write(desk / "scores.json")
    plan = edgeplast.plan(scores, edgeplast.Budget(memory_bytes=256 << 20))
    plan.write(desk / "plan.json")
    edgeplast.export(model, plan, into=desk / "bundle")
    options = TrainingOptions(epochs=1, learning_rate=3e-3)
    edgeplast.adapt(desk / "bundle", desk / "photos", into=desk / "adapted", options=options, budget=edgeplast.Budget())
    edgeplast.deploy(desk / "adapted", desk / "model.onnx")
    with contextlib.suppress(MissingExtraError):  # of a page that is skipped then
        edgeplast.export_ort_training(desk / "adapted", into=desk / "artifacts")
    return desk


@pytest.fixture
def desk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desk of one's own, and the current folder."""
    place = tmp_path / "desk"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "100")
    return place


@pytest.fixture
def clear() -> Callable[[str], None]:
    """Take away what stands where a command writes, as on a desk where it was never run."""

    def clear_it(name: str) -> None:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return clear_it
