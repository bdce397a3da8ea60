"""Files that a model reads weights from: each place in which one can be named is found, and no bytes lead astray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgeplast.errors import InputError
from edgeplast.external_data import _READ_BYTES, check_external_files, external_files

needs_onnx = pytest.mark.skipif(find_spec("onnx") is None, reason="onnx makes the models here, and no device has it")
quick = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _tensor(*names: str, raw: int = 0) -> Any:
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[raw], raw_data=b"\x6a" * raw)
    for name in names:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=name)
    return tensor


def _places(name: str) -> dict[str, Any]:
    """Models that name a file, each in another of the places that onnx.proto3 has for a tensor."""
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        SparseTensorProto,
        TrainingInfoProto,
    )

    tensor = _tensor(name)
    sparse = SparseTensorProto(values=tensor), SparseTensorProto(indices=tensor)
    graphs = {
        "initializer": GraphProto(initializer=[_tensor(), tensor]),
        "sparse values": GraphProto(sparse_initializer=[sparse[0]]),
        "sparse indices": GraphProto(sparse_initializer=[sparse[1]]),
    }
    for kind, attribute in {
        "t": AttributeProto(t=tensor),
        "tensors": AttributeProto(tensors=[_tensor(), tensor]),
        "sparse_tensor": AttributeProto(sparse_tensor=sparse[0]),
        "sparse_tensors": AttributeProto(sparse_tensors=sparse),
        "g": AttributeProto(g=graphs["initializer"]),
        "graphs": AttributeProto(graphs=[GraphProto(), graphs["sparse values"]]),
    }.items():
        graphs[f"attribute {kind}"] = GraphProto(node=[NodeProto(), NodeProto(attribute=[attribute])])
    models = {place: ModelProto(graph=graph) for place, graph in graphs.items()}
    node = NodeProto(attribute=[AttributeProto(t=tensor)])
    models["function"] = ModelProto(functions=[FunctionProto(), FunctionProto(node=[node])])
    default = FunctionProto(attribute_proto=[AttributeProto(t=tensor)])
    models["function's default"] = ModelProto(functions=[default])
    models["training"] = ModelProto(training_info=[TrainingInfoProto(algorithm=graphs["initializer"])])
    models["training's start"] = ModelProto(training_info=[TrainingInfoProto(initialization=graphs["initializer"])])
    return models


@needs_onnx
def test_every_place_that_can_name_a_file_is_found(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    for place, proto in _places("../weights.bin").items():
        model.write_bytes(proto.SerializeToString())
        assert external_files(model) == {"../weights.bin"}, place


@needs_onnx
@pytest.mark.parametrize("around", [0, 1, 100, _READ_BYTES - 40, _READ_BYTES, 3 * _READ_BYTES + 7])
def test_large_tensors_around_it_are_skipped(tmp_path: Path, around: int) -> None:
    from onnx import GraphProto, ModelProto

    graph = GraphProto(initializer=[_tensor(raw=around), _tensor("a"), _tensor(raw=around), _tensor("b", "c")])
    (tmp_path / "m.onnx").write_bytes(ModelProto(producer_name="x" * around, graph=graph).SerializeToString())
    assert external_files(tmp_path / "m.onnx") == {"a", "b", "c"}


@needs_onnx
@pytest.mark.parametrize(
    ("shape", "kind", "size"), [([2], 7, 7), ([1], 7, 158), ([2, -1], 1, 8), ([3], 22, 1), ([], 1, 0)]
)
@pytest.mark.parametrize("place", ["initializer", "constant", "twice"])
def test_a_tensor_with_other_bytes_than_its_shape_says(
    tmp_path: Path, shape: list[int], kind: int, size: int, place: str
) -> None:
    """A runtime that believes the shape reads past the end and takes the process with it."""
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

    tensor = TensorProto(name="w", data_type=kind, dims=shape, raw_data=bytes(size))
    if place == "initializer":
        graph = GraphProto(initializer=[TensorProto(data_type=1, dims=[2, 1], raw_data=bytes(8)), tensor])
    else:
        value = AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)
        graph = GraphProto(node=[NodeProto(op_type="Constant", attribute=[value])])
    data = ModelProto(graph=graph).SerializeToString()
    if place == "twice":  # each fits its shape, and both together, as a parser merges them, do not
        whole = TensorProto(data_type=1, dims=[2], raw_data=bytes(8)).SerializeToString()
        attribute = b"\xa0\x01\x04" + 2 * (b"\x2a" + bytes([len(whole)]) + whole)
        node = b"\x2a" + bytes([len(attribute)]) + attribute
        graph_bytes = b"\x0a" + bytes([len(node)]) + node
        data = b"\x3a" + bytes([len(graph_bytes)]) + graph_bytes
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"is no ONNX model: a tensor of shape \[.*\] has \d+ bytes instead of \d+"):
        external_files(tmp_path / "m.onnx")


@needs_onnx
def test_two_gigabytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import GraphProto, ModelProto

    head = ModelProto(graph=GraphProto(initializer=[_tensor("first")])).SerializeToString()
    hole = (1 << 31) - 100
    with (tmp_path / "m.onnx").open("wb") as file:
        file.write(head + b"\x12" + _varint(hole))  # producer_name, all of it a hole in the file
        file.seek(hole, os.SEEK_CUR)
        file.write(ModelProto(graph=GraphProto(initializer=[_tensor("last")])).SerializeToString())
    read = []
    real = os.fdopen

    class Counting:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *what: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def read(self, count: int) -> bytes:
            read.append(count)
            return self._file.read(count)

    monkeypatch.setattr(os, "fdopen", lambda *a, **k: Counting(real(*a, **k)))
    assert external_files(tmp_path / "m.onnx") == {"first", "last"}
    assert 0 < sum(read) <= 4 * _READ_BYTES


def _varint(value: int) -> bytes:
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _model(entry: bytes) -> bytes:
    return _field(7, _field(5, _field(13, entry)))


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        (_field(1, b"location") + _field(2, b"a"), {"a"}),
        (_field(2, b"a") + _field(1, b"location"), {"a"}),
        (_field(1, b"offset") + _field(2, b"1") + _field(1, b"location") + _field(2, b"b"), {"b"}),  # the last counts
        (_field(1, b"location") + _field(2, b"a") + _field(1, b"offset"), set()),
        (_field(1, b"location"), {""}),
        (b"\x8a\x80\x00" + b"\x88\x00" + b"location" + _field(2, b"a"), {"a"}),  # numbers longer than they need be
        (_field(1, b"location") + b"\x1d1234" + b"\x21" + b"12345678" + b"\x28\xff\xff\x03" + _field(2, b"a"), {"a"}),
        (_field(1, b"location") + _field(2, b"\xff\xfe"), {"\ufffd\ufffd"}),
    ],
)
def test_an_entry_is_read_as_protobuf_does(tmp_path: Path, entry: bytes, names: set[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(_model(entry))
    assert external_files(tmp_path / "m.onnx") == names


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x07", "field number 0|type 7"),
        (b"\x0b\x0c", "field of type 3"),
        (b"\x3a", "ends in the middle"),
        (b"\x3a\x7f", "ends in the middle"),
        (_field(7, b"\x2a\x7flocation"), "ends in the middle"),
        (b"\xff" * 11, "too many bytes"),
        (_model(_field(1, b"location") + _field(2, b"a" * 5000)), "names a file with 5000 characters"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "too many bytes"),
    ],
)
def test_what_is_no_model_says_so(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match=f"m.onnx is no ONNX model: .*({reason}).*Export or deploy it again"):
        external_files(tmp_path / "m.onnx")


def test_messages_in_messages_end_somewhere(tmp_path: Path) -> None:
    data = _field(5, _field(13, _field(1, b"location") + _field(2, b"a")))
    for _ in range(60):
        data = _field(1, _field(5, _field(6, data)))
    (tmp_path / "m.onnx").write_bytes(_field(7, data))
    with pytest.raises(InputError, match="more than 100 messages lie inside one another"):
        external_files(tmp_path / "m.onnx")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read the model .*No such file"):
        external_files(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="Cannot read the model"):
        external_files(tmp_path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="it is no regular file"):
            external_files(tmp_path / "pipe")


def test_only_names_that_are_allowed_pass(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(_model(_field(1, b"location") + _field(2, b"in")))
    check_external_files(model, {"in"})
    with pytest.raises(InputError, match=r"reads weights from other files \('in'\); a deployed model holds all"):
        check_external_files(model)
    model.write_bytes(_model(_field(1, b"location") + _field(2, b"./in")))  # the name as written counts
    with pytest.raises(InputError, match=r"\('\./in'\); only in is allowed"):
        check_external_files(model, {"in"})


@quick
@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_are_names_or_an_input_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with suppress(InputError):
        assert isinstance(external_files(tmp_path / "m.onnx"), set)


@needs_onnx
@quick
@given(data=st.data())
def test_what_protobuf_finds_in_changed_bytes_is_found_here(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of a model changed at random: whatever protobuf still reads as a name is found, or the file is refused."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    models = _places("w")
    text = bytearray(models[data.draw(st.sampled_from(sorted(models)))].SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        change: Callable[[], None] = data.draw(
            st.sampled_from(
                [
                    lambda: text.__setitem__(data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 255))),
                    lambda: text.insert(data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 255))),
                    lambda: text.__delitem__(data.draw(st.integers(0, len(text) - 1))) if len(text) > 1 else None,
                ]
            )
        )
        change()
    (tmp_path / "m.onnx").write_bytes(text)
    try:
        expected = set(_locations(ModelProto.FromString(bytes(text))))
    except DecodeError:
        return
    with suppress(InputError):
        assert external_files(tmp_path / "m.onnx") >= expected


def _locations(message: Any) -> Iterator[str]:
    """All names of external data that protobuf itself sees, wherever they are."""
    if message.DESCRIPTOR.name == "TensorProto":
        entries = [(entry.key, entry.value) for entry in message.external_data]
        # In text that is no UTF-8, protobuf gives the bytes.
        yield from (v if isinstance(v, str) else v.decode("utf-8", "replace") for k, v in entries if k == "location")
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
            for inner in value if repeated else [value]:
                yield from _locations(inner)
