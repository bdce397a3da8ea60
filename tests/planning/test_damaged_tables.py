"""Score tables whose graph does not go together: refused with what to do, whichever walk meets it."""

from __future__ import annotations

import msgspec
import pytest
from planning_models import small, table

from edgeplast.budget import Budget
from edgeplast.errors import InputError
from edgeplast.planning import explain, memory_alone, plan
from edgeplast.scores import ScoreTable

MODEL = small(depth=2)


def with_a_bias_for_each_picture() -> ScoreTable:
    scores = table(MODEL)
    (bias,) = (name for name in MODEL[0].component("blocks.1.fc2").parameters if name.endswith(".bias"))
    values = [msgspec.structs.replace(v, batched=v.batched or v.name == bias) for v in scores.graph.values]
    return msgspec.structs.replace(scores, graph=msgspec.structs.replace(scores.graph, values=tuple(values)))


@pytest.mark.parametrize(
    "make", [lambda s: plan(s, Budget(), strategy="uniform"), lambda s: explain(s, Budget()), memory_alone]
)
def test_tensors_that_do_not_go_together_are_damage(make) -> None:
    with pytest.raises(InputError, match=r"The recorded graph is damaged: .*Score the model again\."):
        make(with_a_bias_for_each_picture())


def test_an_outline_without_segments_is_one_piece() -> None:
    scores = table(MODEL)
    whole = msgspec.structs.replace(scores, outline=msgspec.structs.replace(scores.outline, segments=()))
    assert plan(whole, Budget(), strategy="uniform").trainable == plan(scores, Budget(), strategy="uniform").trainable


@pytest.mark.parametrize("attribute", ["axes", "perm", "alpha", "axis"])
@pytest.mark.parametrize("value", [7, 2**63, [2**40], [], "x"])
def test_attributes_that_no_operator_has_are_damage(attribute: str, value: object) -> None:
    scores = table(MODEL)
    nodes = [
        msgspec.structs.replace(n, attributes={**n.attributes, attribute: value}) if attribute in n.attributes else n
        for n in scores.graph.nodes
    ]
    broken = msgspec.structs.replace(scores, graph=msgspec.structs.replace(scores.graph, nodes=tuple(nodes)))
    try:
        plan(broken, Budget(), strategy="uniform")
    except InputError as error:
        assert "damaged" in str(error) and "Score the model again." in str(error)


def test_a_weight_that_is_listed_twice_is_damage() -> None:
    scores = table(MODEL)
    graph = msgspec.structs.replace(scores.graph, weights=(*scores.graph.weights, scores.graph.weights[3]))
    with pytest.raises(InputError, match=r"The recorded graph lists '.*' twice\. Score the model again\."):
        plan(msgspec.structs.replace(scores, graph=graph), Budget())
