"""Every door through which bytes come in: what goes in damaged, and who reads it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mutations as damage
import numpy as np

import edgeplast
from edgeplast.bundle import Bundle, Manifest
from edgeplast.preprocessing import Preprocessing

MIB = 1 << 20
_STATE = "run"


class Door:
    """One way in.

    Args:
        corpus: whole examples, see ``corpus.py``; never written to.
        place: an empty folder of this door's own, which is the working directory.

    Attributes:
        share: of the inputs of a run, relative to other doors; the slower ones get fewer.
        growth_bytes: by how much the process may grow over what it had before the first input.
        on_device: whether it can be tried without torch.
        loading: how many inputs it takes until all that it needs is loaded; they are not counted.
    """

    share: float = 1.0
    growth_bytes = 96 * MIB
    on_device = True
    loading = 2

    def __init__(self, corpus: Path, place: Path) -> None:
        self.corpus, self.place = corpus, place
        self.open()

    def open(self) -> None:
        """Read the examples."""

    def once(self, rng: random.Random) -> None:
        """Make one damaged input of these random numbers, and hand it in."""
        raise NotImplementedError

    def json(self, name: str) -> bytes:
        """An example as :func:`mutations.in_json` takes it."""
        return damage.parsed((self.corpus / name).read_bytes())

    def write(self, name: str, content: bytes) -> Path:
        """Write a file for the call."""
        path = self.place / name
        path.write_bytes(content)
        return path


def _documents() -> dict[str, tuple[str, Any]]:
    from edgeplast.adaptation import Adaptation
    from edgeplast.plans import Plan
    from edgeplast.scores import ScoreTable

    return {
        "bundle/bundle.json": ("manifest", Manifest),
        "plan.json": ("plan", Plan),
        "scores.json": ("scores", ScoreTable),
        "adapted/report.json": ("report", Adaptation),
    }


class Documents(Door):
    """Records in JSON: manifest, plan, scores, report."""

    share = 8.0

    def open(self) -> None:
        self.kinds = [
            (kind, (self.corpus / name).read_bytes(), self.json(name)) for name, (_, kind) in _documents().items()
        ]

    def once(self, rng: random.Random) -> None:
        kind, text, examples = rng.choice(self.kinds)
        data = damage.in_json(rng, examples) if rng.random() < 0.7 else damage.blind(rng, text)
        kind.read(self.write("x.json", data))


class Scores(Door):
    """scores.json, and the plan that is made of it."""

    share = 0.6

    def open(self) -> None:
        self.scores = self.json("scores.json")

    def once(self, rng: random.Random) -> None:
        from edgeplast import verbs
        from edgeplast.budget import Budget

        path = self.write("scores.json", damage.in_json(rng, self.scores, (1, 1, 1, 2)))
        budget = Budget(memory_bytes=rng.choice((None, 160 * MIB, 80 * MIB)))
        verbs.plan(path, budget, strategy=rng.choice(("best", "best", "uniform", "last-k:1", "attn")))


class Telemetry(Door):
    """telemetry.jsonl and report.json of a run."""

    share = 3.0

    def open(self) -> None:
        self.lines = (self.corpus / "adapted/telemetry.jsonl").read_bytes()
        self.report = self.json("adapted/report.json")

    def once(self, rng: random.Random) -> None:
        from edgeplast.telemetry import read_telemetry

        read_telemetry(self.write("telemetry.jsonl", damage.in_lines(rng, self.lines)))


class Profiles(Door):
    """Device profiles in TOML."""

    share = 3.0

    def open(self) -> None:
        import edgeplast_devices

        folder = Path(edgeplast_devices.__file__).parent / "profiles"
        self.texts = [path.read_bytes() for path in sorted(folder.glob("*.toml"))]

    def once(self, rng: random.Random) -> None:
        from edgeplast_devices.device_profiles import profile_defaults

        path = self.write("my.toml", damage.in_toml(rng, rng.choice(self.texts)))
        profile_defaults(str(path))


class Bundles(Door):
    """A bundle of which one file is damaged, and its manifest often says that this is how it should be."""

    share = 2.0

    def open(self) -> None:
        self.bundle = Path(shutil.copytree(self.corpus / "bundle", self.place / "bundle"))
        self.texts = {path.name: path.read_bytes() for path in sorted(self.bundle.iterdir())}
        self.manifest = self.json("bundle/bundle.json")
        self.names = sorted(name for name in self.texts if name != "bundle.json")
        self.changed: set[str] = set()

    def once(self, rng: random.Random) -> None:
        self.damaged(rng)
        self.use(rng)

    def damaged(self, rng: random.Random, only: str = "") -> None:
        """Put back what the last input changed, and damage something else."""
        for name in self.changed:
            (self.bundle / name).write_bytes(self.texts[name])
        name = "bundle.json" if rng.random() < 0.4 else rng.choice([n for n in self.names if n.endswith(only)])
        self.changed = {"bundle.json", name}
        if name == "bundle.json":
            kept = damage.in_json(rng, self.manifest, (1, 1, 1, 2))
            (self.bundle / name).write_bytes(kept)
            return
        mutation = damage.in_protobuf if name.endswith(".onnx") else damage.in_safetensors
        data = mutation(rng, self.texts[name])
        (self.bundle / name).write_bytes(data)
        manifest = json.loads(self.texts["bundle.json"])
        if rng.random() < 0.95:
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (self.bundle / "bundle.json").write_text(json.dumps(manifest))

    def use(self, rng: random.Random) -> None:
        """Read all there is in it, and make a model of it."""
        from edgeplast_devices.deploying import deploy
        from edgeplast_devices.weights import read_trainable

        bundle = Bundle.open(self.bundle)
        if rng.random() < 0.5:
            read_trainable(bundle)
        else:
            deploy(bundle, self.place / "model.onnx", force=True)


class Running(Bundles):
    """A damaged bundle, run: evaluated by the runtime, or adapted for a step."""

    share = 0.03
    growth_bytes = 256 * MIB

    def use(self, rng: random.Random) -> None:
        from edgeplast import verbs
        from edgeplast.budget import Budget
        from edgeplast.evaluating import evaluate
        from edgeplast_devices.options import TrainingOptions

        if rng.random() < 0.6:
            evaluate(self.bundle, self.corpus / "data", threads=1)
            return
        shutil.rmtree(self.place / "out", ignore_errors=True)
        shutil.rmtree(self.place / "out.partial", ignore_errors=True)
        options = TrainingOptions(epochs=1, batch=12, threads=1)
        verbs.adapt(self.bundle, self.corpus / "data", into=self.place / "out", options=options, budget=Budget())


class Checkpoints(Door):
    """Checkpoints of a run whose names carry the checksum of what is in them, and some that do not."""

    share = 2.0

    def open(self) -> None:
        from edgeplast_devices.checkpoints import checkpoint_files
        from edgeplast_devices.tensors import read_arrays

        self.partial = Path(shutil.copytree(self.corpus / "run.partial", self.place / "run.partial"))
        newest = checkpoint_files(self.partial)[0]
        self.original, self.standing = newest.read_bytes(), read_arrays(newest)
        for file in self.partial.glob("checkpoint-*"):
            file.unlink()
        length = int.from_bytes(self.original[:8], "little")
        self.header = json.loads(self.original[8 : 8 + length])
        self.arrays = self.original[8 + length :]
        self.state = damage.parsed(self.header["__metadata__"][_STATE].encode())
        self.file: Path | None = None

    def once(self, rng: random.Random) -> None:
        from edgeplast_devices.checkpoints import last_checkpoint

        self.damaged(rng)
        checkpoint = last_checkpoint(self.partial)
        if checkpoint is not None:
            checkpoint.read_into(self.standing)

    def damaged(self, rng: random.Random) -> None:
        """Put a damaged checkpoint in the place of the last one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
        if rng.random() < 0.6:
            text = damage.in_json(rng, self.state, (1, 1, 1, 2)).decode("utf-8", "replace")
            header = json.dumps({**self.header, "__metadata__": {_STATE: text}}).encode()
            data = len(header).to_bytes(8, "little") + header + self.arrays
        else:
            data = damage.in_safetensors(rng, self.original)
        checksum = hashlib.sha256(data).hexdigest()[:16] if rng.random() < 0.95 else "0" * 16
        number = rng.choice(("00000004", "00000004", "99999999"))
        self.file = self.partial / f"checkpoint-{number}-{checksum}.safetensors"
        self.file.write_bytes(data)


class Resuming(Checkpoints):
    """A run that goes on from a damaged checkpoint."""

    share = 0.02
    growth_bytes = 256 * MIB

    def once(self, rng: random.Random) -> None:
        from edgeplast import verbs
        from edgeplast.budget import Budget

        shutil.rmtree(self.partial, ignore_errors=True)
        shutil.rmtree(self.place / "run", ignore_errors=True)
        shutil.copytree(self.corpus / "run.partial", self.partial)
        for file in self.partial.glob("checkpoint-*"):
            file.unlink()
        self.damaged(rng)
        verbs.adapt(self.corpus / "bundle", self.corpus / "data", into=self.place / "run", resume=True, budget=Budget())


class Models(Door):
    """Deployed models: graph, metadata, weights."""

    share = 0.15
    growth_bytes = 256 * MIB

    def open(self) -> None:
        self.model = (self.corpus / "model.onnx").read_bytes()
        self.pictures = [self.corpus / "pictures/rgb.png"]

    def once(self, rng: random.Random) -> None:

        edgeplast.predict(self.write("m.onnx", damage.in_protobuf(rng, self.model)), self.pictures, threads=1)


class ExternalData(Door):
    """The names of other files in a graph, read without a runtime."""

    share = 3.0

    def open(self) -> None:
        self.graphs = [path.read_bytes() for path in sorted((self.corpus / "bundle").glob("*.onnx"))]

    def once(self, rng: random.Random) -> None:
        from edgeplast.external_data import check_external_files

        check_external_files(self.write("m.onnx", damage.in_protobuf(rng, rng.choice(self.graphs))))


class Pictures(Door):
    """Single pictures of every format, decoded under limits and brought into a model's size."""

    share = 6.0
    growth_bytes = 128 * MIB

    def open(self) -> None:
        found = sorted((self.corpus / "pictures").iterdir())
        self.small = [path.read_bytes() for path in found if not path.name.startswith("large")]
        self.large = [path.read_bytes() for path in found if path.name.startswith("large")]
        self.how = Preprocessing(image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)

    def once(self, rng: random.Random) -> None:
        from edgeplast_devices.images import decoding, preprocess

        data = damage.in_picture(rng, rng.choice(self.small if rng.random() < 0.98 else self.large), self.small)
        limit = rng.choice((decoding.DECODE_LIMIT_BYTES, 4 * MIB, 100_000, 1000))
        at_least = rng.choice((None, (32, 32), (224, 224)))
        preprocess(decoding.decode(io.BytesIO(data), "x", at_least=at_least, limit_bytes=limit), self.how)


class DataSets(Door):
    """Archives and folders, opened in all ways and gone through once."""

    share = 1.5
    packed = False

    def open(self) -> None:
        folder = self.corpus / "data"
        found = [path for path in sorted(folder.rglob("*.png")) if path.stem in ("000", "001", "10000")]
        self.pictures = [(str(path.relative_to(folder)), path.read_bytes()) for path in found]
        self.how = Preprocessing(image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)

    def once(self, rng: random.Random) -> None:
        self.read(rng, self.write("data", damage.in_tar(rng, self.pictures, packed=self.packed)))

    def read(self, rng: random.Random, path: Path) -> None:
        """Open it and decode what is in it."""
        from edgeplast_devices.images import Unreadable, batches, open_images, open_splits, open_unlabelled

        kind = rng.randrange(4)
        if kind == 0:
            images = open_images(path, rng.choice((None, "test", "val")), prefer=("test",))
        elif kind == 1:
            images = open_unlabelled(path)
        else:
            splits = open_splits(path, seed=0)
            images = splits.train if splits.val is None or rng.random() < 0.5 else splits.val
        images.fingerprint()
        for batch in batches(images, self.how, 4, unreadable=Unreadable()):
            del batch


class Packed(DataSets):
    """The same, as .tar.gz, .tar.xz and .tar.bz2."""

    share = 0.8
    packed = True


class Arrays(DataSets):
    """Arrays in an npz."""

    def open(self) -> None:
        super().open()
        with np.load(self.corpus / "blobs.npz") as file:
            self.arrays = [(key, _npy(file[key])) for key in file.files]

    def once(self, rng: random.Random) -> None:
        self.read(rng, self.write("data.npz", damage.in_npz(rng, self.arrays)))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Folders(DataSets):
    """Folders of pictures, of other things, of nothing, and with odd names and links."""

    share = 0.4

    def once(self, rng: random.Random) -> None:
        root = self.place / "data"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, content in self.pictures:
            parts = name.split("/")
            if rng.random() < 0.15:
                parts[rng.randrange(len(parts))] = rng.choice(damage.NAMES).replace("..", "").strip("/") or "x"
            if rng.random() < 0.2:
                content = damage.in_picture(rng, content) if rng.random() < 0.7 else b""
            path = os.path.join(str(root), *parts).encode("utf-8", rng.choice(("surrogatepass", "replace")))  # noqa: PTH118
            if rng.random() < 0.05:
                path = path.replace(b"e", b"\xff")
            with contextlib.suppress(OSError, ValueError):
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                if os.path.lexists(path):
                    os.unlink(path)  # noqa: PTH108 - perhaps a pipe, which nobody would ever read
                if rng.random() < 0.03:
                    os.symlink(rng.choice((b"..", b".", b"/dev/null", b"nowhere", b"/proc/self/mem")), path)  # noqa: PTH211
                elif rng.random() < 0.01:
                    os.mkfifo(path)
                else:
                    with open(path, "wb") as file:  # noqa: PTH123
                        file.write(content)
        self.read(rng, root)


class Weights(Door):
    """Pretrained weights (safetensors and torch's own files), into a model, and the JSON beside them."""

    share = 0.4
    growth_bytes = 256 * MIB
    on_device = False

    def open(self) -> None:
        import torch
        from small_models import small_vit

        torch.set_num_threads(1)
        folder = self.corpus / "weights"
        self.files = [path.read_bytes() for path in sorted(folder.glob("*.pth"))]
        self.plain = (folder / "plain.safetensors").read_bytes()
        self.beside = {name: self.json(f"weights/{name}") for name in ("config.json", "preprocessor_config.json")}
        self.model = lambda: small_vit(embed_dim=16, depth=1, num_heads=2)
        self.model()

    def once(self, rng: random.Random) -> None:
        from edgeplast.models import set_pictures
        from edgeplast.pretrained.configuration import check_activation, read_configuration
        from edgeplast.pretrained.files import read_state_dict
        from edgeplast.pretrained.fitting import fill

        if rng.random() < 0.3:
            name = rng.choice(list(self.beside))
            for other, document in self.beside.items():
                data = damage.in_json(rng, document, (1,)) if other == name else None
                (self.place / other).unlink(missing_ok=True)
                if data is not None:
                    self.write(other, data)
            found = read_configuration(self.place)
            model = self.model()
            check_activation(model, found.activation, "small_vit")
            set_pictures(model, found.pictures)
            return
        if rng.random() < 0.5:
            path = self.write("w.safetensors", damage.in_safetensors(rng, self.plain))
        else:
            path = self.write("w.pth", damage.blind(rng, rng.choice(self.files)))
        state = read_state_dict(path)
        if rng.random() < 0.2:
            names = list(state.tensors)
            state.tensors[rng.choice(damage.NAMES)] = state.tensors.pop(rng.choice(names))
        fill(self.model(), state, name="small_vit", resample=rng.random() < 0.5)


class Pruned(Door):
    """The record of a pruned model."""

    on_device = False

    def open(self) -> None:
        self.record = json.loads((self.corpus / "weights/pruned.json").read_text())
        weights = (self.corpus / "weights/plain.safetensors").read_bytes()
        self.write("weights.safetensors", weights)
        self.record["weights"] = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        self.examples = damage.parsed(json.dumps(self.record).encode())

    def once(self, rng: random.Random) -> None:
        from edgeplast.cli.inspect import show_pruned
        from edgeplast.reshaping import read_record

        self.write("pruned.json", damage.in_json(rng, self.examples))
        record = read_record(self.place)
        with contextlib.redirect_stdout(io.StringIO()):
            show_pruned(record)


class UnexpectedError(Exception):
    """A command said that something was unexpected."""


def command(words: list[str]) -> int:
    """Run a command in this process.

    Raises:
        UnexpectedError: it ended with an error that nobody foresaw.
    """
    from edgeplast.cli.app import run

    said = io.StringIO()
    out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, io.StringIO(), said
    try:
        code = run(words)
    finally:
        sys.stdout, sys.stderr = out, err
    if "Unexpected" in said.getvalue() or "Traceback" in said.getvalue():
        raise UnexpectedError(said.getvalue()[-2000:])
    if code not in (0, 2, 3, 4, 5):
        raise UnexpectedError(f"exit code {code}: {said.getvalue()[-2000:]}")
    return code


class Commands(Bundles):
    """Commands on damaged files."""

    share = 0.2
    growth_bytes = 256 * MIB

    def open(self) -> None:
        super().open()
        self.scores, self.report = self.json("scores.json"), self.json("adapted/report.json")
        self.lines = (self.corpus / "adapted/telemetry.jsonl").read_bytes()
        self.profile = Profiles(self.corpus, self.place)

    def once(self, rng: random.Random) -> None:
        place, data = self.place, str(self.corpus / "data")
        as_json = ["--json"] * (rng.random() < 0.3)
        kind = rng.randrange(8)
        if kind < 3:
            self.damaged(rng)
            words = (["inspect", str(self.bundle)], ["deploy", str(self.bundle), "-o", "m.onnx", "--force"])[kind % 2]
        elif kind == 3:
            self.write("scores.json", damage.in_json(rng, self.scores, (1, 1, 1, 2)))
            words = ["plan", "scores.json", "-o", "plan.json", "--force", *["--explain"] * (rng.random() < 0.3)]
        elif kind == 4:
            self.write("my.toml", damage.in_toml(rng, rng.choice(self.profile.texts)))
            words = ["devices", "my.toml"]
        elif kind == 5 and find_spec("tensorboard") is not None and rng.random() < 0.5:
            (place / "adapted").mkdir(exist_ok=True)
            self.write("adapted/telemetry.jsonl", damage.in_lines(rng, self.lines))
            shutil.rmtree(place / "log", ignore_errors=True)
            words = ["report", "adapted", "--tensorboard", "log"]
        elif kind == 6:
            shutil.copyfile(self.corpus / "model.onnx", place / "m.onnx")
            self.write("p.png", damage.in_picture(rng, (self.corpus / "pictures/rgb.png").read_bytes()))
            words = ["predict", "m.onnx", "p.png", "--threads", "1"]
        else:
            words = [
                "evaluate",
                "nowhere" if rng.random() < 0.5 else "m.onnx",
                "--data",
                data,
                "--split",
                rng.choice(damage.NAMES),
            ]
        command(words + as_json)


class Reports(Door):
    """Pages of damaged telemetry, reports and scores, drawn."""

    share = 0.01
    growth_bytes = 256 * MIB
    on_device = False

    def open(self) -> None:
        self.lines = (self.corpus / "adapted/telemetry.jsonl").read_bytes()
        self.report, self.scores = self.json("adapted/report.json"), self.json("scores.json")
        (self.place / "adapted").mkdir()

    def once(self, rng: random.Random) -> None:
        if rng.random() < 0.4:
            self.write("scores.json", damage.in_json(rng, self.scores, (1, 1, 1, 2)))
            command(["report", "scores.json", "-o", "page.html", "--force"])
            return
        self.write("adapted/telemetry.jsonl", damage.in_lines(rng, self.lines) if rng.random() < 0.6 else self.lines)
        self.write("adapted/report.json", damage.in_json(rng, self.report, (1,)))
        command(["report", "adapted", "-o", "page.html", "--force"])


class Options(Door):
    """Command lines that nobody means; names of files are odd ones, and lie in a folder of its own."""

    share = 0.5
    growth_bytes = 256 * MIB

    def open(self) -> None:
        if find_spec("torch") is not None:  # loading takes long, and is nobody's fault
            from edgeplast.models import import_timm

            import_timm()
        self.options = {verb: _options_of(verb) for verb in VERBS if verb not in OFFLINE or find_spec("torch")}

    def once(self, rng: random.Random) -> None:
        verb = rng.choice(list(self.options))
        words = [verb]
        for _ in range(rng.randrange(3)):
            words.append(self.word(rng))
        for _ in range(rng.randrange(5)):
            option = rng.choice(self.options[verb])
            words.append(option)
            if rng.random() < 0.9:
                words.append(self.word(rng))
        if rng.random() < 0.03:
            words[0] = self.word(rng)
        command(words)
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def word(self, rng: random.Random) -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return str(rng.choice(damage.SIZES))
        if kind == 1:
            return rng.choice((*ODD_WORDS, "9" * 400 + "MiB", "1e999GiB", "nan", "inf", "-1", "١", "0.5", "1e-320"))
        if kind == 2:
            return rng.choice(WORDS)
        kinds = ("bundle", "model.onnx", "plan.json", "scores.json", "data", "blobs.npz", "pictures/rgb.png", "weights")
        return str(self.corpus / rng.choice(kinds)) if rng.random() < 0.7 else rng.choice(("out", "nowhere", ""))


WORDS = (
    "256MiB", "none", "20steps", "blocks:0-1", "attn:9999999999999999999", "norm,head", "auto", "freeze-low:nan",
    "last-k:" + "9" * 400, "keep:0.5", "cuda", "cpu", "all", "best", "a,b", "attn=4,mlp=8", "4", "sgd", "{}", "[1,2",
    "local-dir:x", "vit", "9" * 400 + "MiB", "1e999GiB", "nan", "inf", "-1", "1e-320",
)  # fmt: skip
ODD_WORDS = tuple(name.replace("\ud800", "\udcff") for name in damage.NAMES[4:] if not name.startswith("/"))
VERBS = ("plan", "adapt", "evaluate", "deploy", "predict", "inspect", "devices", "report", "score", "export", "prune")
OFFLINE = ("score", "export", "prune", "report")


def _options_of(verb: str) -> list[str]:
    """Names of the options of a command."""
    import typer

    from edgeplast.cli.app import app

    group: Any = typer.main.get_command(app)
    found = [name for param in group.get_command(None, verb).params for name in param.opts if name.startswith("-")]
    return [name for name in found if name not in ("--force", "--png", "--pretrained")]


class Several(Door):
    """Several doors in one process, each as often as its share says: for a short run."""

    growth_bytes = 256 * MIB
    loading = 40
    names: tuple[str, ...] = (
        "documents", "scores", "telemetry", "profiles", "bundles", "running", "checkpoints", "models", "external data",
        "pictures", "tars", "packed tars", "arrays", "folders", "commands",
    )  # fmt: skip

    def open(self) -> None:
        self.doors = []
        for name in self.names:
            (self.place / name).mkdir()
            self.doors.append(DOORS[name](self.corpus, self.place / name))
        self.shares = [min(door.share, 2.0) for door in self.doors]

    def once(self, rng: random.Random) -> None:
        door = rng.choices(self.doors, self.shares)[0]
        os.chdir(door.place)
        door.once(rng)


class SeveralOffline(Several):
    """The same for what needs torch."""

    on_device = False
    names = ("weights", "pruned", "scores")


DOORS: dict[str, type[Door]] = {
    "documents": Documents,
    "scores": Scores,
    "telemetry": Telemetry,
    "profiles": Profiles,
    "bundles": Bundles,
    "running": Running,
    "checkpoints": Checkpoints,
    "resuming": Resuming,
    "models": Models,
    "external data": ExternalData,
    "pictures": Pictures,
    "tars": DataSets,
    "packed tars": Packed,
    "arrays": Arrays,
    "folders": Folders,
    "weights": Weights,
    "pruned": Pruned,
    "commands": Commands,
    "reports": Reports,
    "options": Options,
    "several": Several,
    "several offline": SeveralOffline,
}
