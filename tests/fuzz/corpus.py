"""What is damaged: a whole, small example of everything that edgeplast reads, made once into a folder."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from small_models import blob, blob_folder, blob_npz, small_bundle
from vit_graphs import small_vit_graph

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.graphs.recording import recorded
from edgeplast.scores import ComponentScore, ScoreTable
from edgeplast_devices.options import TrainingOptions

DONE = "done"


class _StopError(Exception):
    """Ends a run in its middle, so that it leaves a checkpoint."""


def make(folder: Path, bundle: Bundle | None = None) -> Path:
    """Fill a folder, unless it is full already; without torch a bundle must be given, and torch's files are missing."""
    if (folder / DONE).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if bundle is None:
        bundle = small_bundle(folder / "bundle", "blocks:2,norm", weight_bits=8, depth=3)
    else:
        shutil.copytree(bundle.path, folder / "bundle")
    data = blob_folder(folder / "data", 4, 3)
    blob_npz(folder / "blobs.npz", 3, 2)
    edgeplast.deploy(bundle, folder / "model.onnx")
    options = TrainingOptions(epochs=2, batch=4, threads=1, checkpoint_every="1steps")
    edgeplast.adapt(bundle, data, into=folder / "adapted", options=options)
    with contextlib.suppress(_StopError):
        edgeplast.adapt(bundle, data, into=folder / "run", options=options, epoch_done=_stop)
    bundle.manifest.plan.write(folder / "plan.json")
    outline, graph = small_vit_graph(depth=3)  # made without torch
    rng = np.random.default_rng(0)
    scores = {
        part.name: ComponentScore(score=float(rng.random()), parameters=part.size, standard_error=0.01, samples=8)
        for part in outline.components
        if part.role == "inner"
    }
    ScoreTable(
        method="plasticity-branch",
        components=scores,
        others={"gradient": dict(reversed(scores.items()))},
        outline=outline,
        graph=recorded(graph),
        classes=bundle.manifest.classes,
    ).write(folder / "scores.json")
    _pictures(folder / "pictures")
    if find_spec("torch") is not None:
        _weights(folder / "weights")
    (folder / DONE).touch()
    return folder


def _stop(report: object) -> None:
    raise _StopError


def _pictures(folder: Path) -> None:
    """Every format, and of each the variants that take another way through a decoder."""
    folder.mkdir()
    rgb = blob("red", 1, 40)
    grey = rgb.convert("L")
    deep = Image.fromarray((np.asarray(grey, np.uint16) * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    variants: list[tuple[str, Image.Image, dict]] = [
        ("rgb.png", rgb, {}), ("grey.png", grey, {}), ("palette.png", rgb.convert("P"), {"transparency": 3}),
        ("alpha.png", rgb.convert("RGBA"), {}), ("deep.png", deep, {}), ("bits.png", rgb.convert("1"), {}),
        ("rgb.jpg", rgb, {"exif": exif}), ("grey.jpg", grey, {}), ("progressive.jpg", rgb, {"progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}), ("raw.tif", rgb, {}), ("lzw.tif", rgb, {"compression": "tiff_lzw"}),
        ("deep.tif", deep, {}), ("jpeg.tif", rgb, {"compression": "jpeg"}), ("palette.gif", rgb.convert("P"), {}),
        ("lossy.webp", rgb, {"exif": exif}), ("lossless.webp", rgb, {"lossless": True}), ("rgb.ppm", rgb, {}),
        ("grey.pgm", grey, {}), ("bits.pbm", rgb.convert("1"), {}), ("rgb.bmp", rgb, {}), ("palette.bmp", grey, {}),
        ("rgb.jp2", rgb, {}), ("rgb.avif", rgb, {}),
    ]  # fmt: skip
    for name, picture, how in variants:
        file = io.BytesIO()
        try:
            picture.save(file, Image.registered_extensions()[Path(name).suffix], **how)
        except (KeyError, OSError):  # Pillow was built without it
            continue
        (folder / name).write_bytes(file.getvalue())
    (folder / "text.pgm").write_bytes(b"P2 # a comment\n3 2\n255\n" + b"1 2 3\n4 5 6\n")
    large = blob("green", 2, 36).resize((2400, 1900))
    large.save(folder / "large.jpg", quality=40)  # decoded at a part of its size
    large.save(folder / "large.png")


def _weights(folder: Path) -> None:
    """A small vision transformer's weights as the usual programs save them, and what lies beside."""
    import argparse

    import torch
    from safetensors.torch import save_file
    from small_models import small_vit

    folder.mkdir()
    weights = small_vit(embed_dim=16, depth=1, num_heads=2).state_dict()
    save_file(weights, folder / "plain.safetensors")
    torch.save(weights, folder / "plain.pth")
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    prefixed = {f"module.{name}": tensor.half() for name, tensor in weights.items()}
    wrapped = {"state_dict_ema": prefixed, "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    torch.save(wrapped, folder / "wrapped.pth")
    timms = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.9},
    }
    (folder / "config.json").write_text(json.dumps(timms))
    theirs = {
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(theirs))
    cost = {"parameters": 10, "macs": 10}
    record = {
        "format_version": 1,
        "model": "vit_tiny_patch16_224",
        "options": {"img_size": [32, 32]},
        "classes": 3,
        "blocks": [{"heads": 1, "hidden": 8, "heads_before": 2, "hidden_before": 64}],
        "kept_fraction": {"blocks.0.attn": 0.5},
        "before": cost,
        "after": cost,
        "target": "keep 0.7",
        "distill_loss": [1.0, 0.5],
    }
    (folder / "pruned.json").write_text(json.dumps(record))
