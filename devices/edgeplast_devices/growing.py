"""A head with more rows: the classes of a bundle grow on the device, without the onnx package.

In a bundle's graphs the number of classes stands in the shapes of inputs and outputs alone (the head's parameters,
their gradients, targets and logits); everything between takes its size from them. So a graph is given other numbers
there, and the head's matrix and bias more rows. That can be undone: the same graph with the old numbers is the old
file, bit for bit.

A new row says nothing until a picture of its class was seen (``manifest.waiting``): it is the mean of the others, so
far below them that it is never the answer. ``imprinting.py`` puts it in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from edgeplast.bundle import MOST_GRAPH_BYTES, TRAINABLE, Bundle, Manifest, check_classes, describe_file, is_graph
from edgeplast.contract import LOGITS, TARGETS, gradient_input, gradient_output
from edgeplast.errors import InputError, UsageError
from edgeplast.files import write_bytes
from edgeplast.footprint import Footprint, MemoryLine
from edgeplast.outline import Component
from edgeplast.stamps import stamp_of
from edgeplast_devices.fitted_heads import LinearHead, head_if_linear
from edgeplast_devices.images import ImageSet, Splits
from edgeplast_devices.protobuf import resized_values
from edgeplast_devices.tensors import read_arrays, read_metadata, write_arrays
from edgeplast_devices.weights import head_is_new

_UNSEEN_GAP = 20.0
"""How far below the others a row lies whose class was not seen: it then has a probability of e⁻²⁰."""

_VALUES_AN_IMAGE = 12
"""Values of the width of the logits that a training graph may hold at once for an image: logits, targets, softmax and
its parts, the gradient."""


def head_of(manifest: Manifest) -> LinearHead:
    """Return the head of a bundle, whose rows are its classes.

    Raises:
        UsageError: it is more than one linear layer.
    """
    head = head_if_linear(manifest)
    if head is None:
        raise UsageError(
            f"The head of {manifest.model} is more than one linear layer, and classes can be added to no other. Export "
            "the model again with all names in --classes."
        )
    return head


def check_new(names: Sequence[str], manifest: Manifest) -> None:
    """Raise unless classes of these names can be added.

    Raises:
        UsageError: one is known already, given twice, empty or too long; or the head cannot grow.
    """
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{name!r} is no name of a class. Give a text such as 'lynx'.")
        if name in manifest.classes:
            raise UsageError(
                f"The class {name!r} is known already, as number {manifest.classes.index(name)} of "
                f"{len(manifest.classes)}. Leave it out, or give the new class another name."
            )
        if name in names[:number]:
            raise UsageError(f"The new class {name!r} is given twice. Once is enough.")
    try:
        check_classes((*manifest.classes, *names))
    except InputError as error:
        raise UsageError(str(error)) from error
    if names:
        head_of(manifest)


def classes_to_add(manifest: Manifest, images: Splits, add: Sequence[str], unknown: str) -> tuple[str, ...]:
    """Return the names of the classes that a run adds: those that were named, then those that its pictures show.

    Args:
        manifest: of the bundle.
        images: of the run.
        add: names, in order.
        unknown: ``add`` classes that nobody named, or ``error``.

    Raises:
        UsageError: see :func:`check_new`.
        InputError: pictures show what is no class, and that is an error.
    """
    check_new(add, manifest)
    known = {*manifest.classes, *add}
    shown = [part.present_classes() for part in (images.train, images.val, images.test) if part is not None]
    new = [name for name in dict.fromkeys(n for names in shown for n in names) if name not in known]
    if new and unknown != "add":
        _refuse_unknown(images, (*manifest.classes, *add), new)
    new = sorted(new)
    check_new(new, manifest)
    return (*add, *new)


def _refuse_unknown(images: Splits, classes: tuple[str, ...], new: list[str]) -> None:
    for part in (images.train, images.val, images.test):
        if part is not None:
            try:
                part.aligned_to(classes)
            except InputError as error:
                named = " ".join(f"--add-class {name}" for name in new[:3])
                raise InputError(
                    f"{error} To learn {'it' if len(new) == 1 else 'them'} as new: --new-classes add, or {named}."
                ) from error


def with_more(manifest: Manifest, names: Sequence[str], *, waiting: bool) -> Manifest:
    """Return what the manifest says once there are more classes; sizes and hashes of files are those of before.

    Args:
        manifest: of the bundle.
        names: that are added, in order.
        waiting: whether they wait for their first picture; not where the whole head is new.
    """
    if not names:
        return manifest
    return resized(
        manifest,
        (*manifest.classes, *names),
        (*manifest.waiting, *(names if waiting else ())),
    )


def resized(manifest: Manifest, classes: tuple[str, ...], waiting: tuple[str, ...]) -> Manifest:
    """Return what the manifest says with these classes, more or fewer; sizes and hashes of files are those of before.

    Raises:
        UsageError: the head is more than one linear layer.
    """
    head, count = head_of(manifest), len(classes)
    more = count - head.classes
    shapes: dict[str, tuple[int, ...]] = {head.weight: (count, head.width)}
    if head.bias is not None:
        shapes[head.bias] = (count,)
    numbers = more * (head.width + (head.bias is not None))

    def component(old: Component) -> Component:
        new = {name: shapes.get(name, shape) for name, shape in old.parameters.items()}
        return msgspec.structs.replace(old, parameters=new)

    plan = manifest.plan
    outline = msgspec.structs.replace(
        plan.outline, classes=count, components=tuple(component(c) for c in plan.outline.components)
    )
    sizes = {c.name: c.size for c in outline.components}
    planned = {n: msgspec.structs.replace(c, parameters=sizes[n]) for n, c in plan.components.items()}
    replace = msgspec.structs.replace
    return replace(
        manifest,
        classes=classes,
        waiting=waiting,
        plan=replace(plan, outline=outline, components=planned, classes=classes if plan.classes else ()),
        parameters={n: replace(p, shape=shapes.get(n, p.shape)) for n, p in manifest.parameters.items()},
        evaluation=_grown(manifest.evaluation, numbers, 0, more),
        tiers=tuple(
            replace(
                tier,
                graphs=tuple(replace(g, footprint=_grown(g.footprint, numbers, numbers, more)) for g in tier.graphs),
            )
            for tier in manifest.tiers
        ),
    )


def _grown(footprint: Footprint, held: int, trained: int, classes: int) -> Footprint:
    """Return a footprint with so many more numbers in the head, and so many more classes in what is alive at once."""
    return msgspec.structs.replace(
        footprint,
        held_parameters=footprint.held_parameters + held,
        trained_parameters=footprint.trained_parameters + trained,
        transient=tuple(
            MemoryLine(line.fixed_bytes, max(line.per_image_bytes + 4 * _VALUES_AN_IMAGE * classes, 0))
            for line in footprint.transient
        ),
    )


def planned(bundle: Bundle, names: Sequence[str]) -> Bundle:
    """Return a bundle as it will be with more classes; its files are those of before, see :func:`grow`.

    Raises:
        UsageError: see :func:`check_new`.
        DamagedError: its weights are not what the manifest says.
    """
    check_new(names, bundle.manifest)
    if not names:
        return bundle
    manifest = with_more(bundle.manifest, names, waiting=not head_is_new(bundle))
    return msgspec.structs.replace(bundle, manifest=manifest, digest=bundle.fingerprint)


def grow(bundle: Bundle, names: Sequence[str]) -> Bundle:
    """Give a copy of a bundle more classes: its graphs and its head's rows in their place in its folder.

    Args:
        bundle: a copy that a run or a Learner made for itself.
        names: of the new classes, in order; none leaves everything as it is.

    Returns:
        the bundle that it is now; its folder has no manifest.

    Raises:
        UsageError: see :func:`check_new`.
        DamagedError: a file is not what the manifest says.
        DiskFullError: there is no room; the copy is no longer whole.
    """
    if not names:
        return bundle
    before, manifest = head_of(bundle.manifest), planned(bundle, names).manifest
    arrays = read_arrays(bundle.path / TRAINABLE)
    arrays |= _rows(arrays, before, len(names), waiting=bool(manifest.waiting))
    write_arrays(bundle.path / TRAINABLE, arrays, read_metadata(bundle.path / TRAINABLE))
    written = resize_graphs(bundle, before, len(manifest.classes))
    return rehashed(bundle, manifest, (TRAINABLE, *written))


def resize_graphs(bundle: Bundle, head: LinearHead, classes: int) -> list[str]:
    """Write the graphs of a folder with another number of classes; return those that changed.

    Args:
        bundle: a copy.
        head: as the graphs have it.
        classes: that they get.
    """
    axes = axes_of(head)
    changed = []
    for name in filter(is_graph, bundle.manifest.files):
        bundle.check_unchanged(name)
        path = bundle.path / name
        data = path.read_bytes() if path.stat().st_size <= MOST_GRAPH_BYTES else b""
        new = resized_values(data, axes, head.classes, classes)
        if new != data:
            write_bytes(path, new)
            changed.append(name)
    return changed


def rehashed(bundle: Bundle, manifest: Manifest, names: Iterable[str]) -> Bundle:
    """Return a copy of a bundle with another manifest, some of whose files were written anew."""
    described = {name: describe_file(bundle.path / name) for name in names}
    stamps = dict(bundle.stamps)
    for name in described:
        stamp = stamp_of(bundle.path / name)
        assert stamp is not None
        stamps[name] = stamp
    manifest = msgspec.structs.replace(manifest, files={**manifest.files, **described})
    return Bundle(bundle.path, manifest, bundle.digest, stamps, is_copy=True)


def axes_of(head: LinearHead) -> dict[str, int]:
    """Return the inputs and outputs of a bundle's graphs in whose shape the classes stand, and where."""
    axes = {LOGITS: 1, TARGETS: 1}
    for name in filter(None, (head.weight, head.bias)):
        axes |= {name: 0, gradient_input(name): 0, gradient_output(name): 0}
    return axes


def _rows(arrays: Mapping[str, np.ndarray], head: LinearHead, more: int, *, waiting: bool) -> dict[str, np.ndarray]:
    """Return the head's parameters with so many more rows: unseen ones, or zeros where nothing was learned yet."""
    weight = arrays[head.weight]
    row = weight.mean(0, keepdims=True) if waiting else np.zeros_like(weight[:1])
    found = {head.weight: np.concatenate([weight, np.repeat(row, more, 0)])}
    if head.bias is not None:
        bias = arrays[head.bias]
        value = bias.min() - np.float32(_UNSEEN_GAP) if waiting else np.float32(0)
        found[head.bias] = np.concatenate([bias, np.full(more, value, np.float32)])
    return found


def present(images: ImageSet, names: Iterable[str]) -> list[str]:
    """Return those of the names of which there is a picture."""
    shown = set(images.present_classes())
    return [name for name in names if name in shown]
