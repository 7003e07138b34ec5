"""Small networks made by hand, for tests that need no training."""

from collections.abc import Callable

import pytest
from onnx import TensorProto, helper


@pytest.fixture
def level_network() -> Callable[..., bytes]:
    """`level_network(scale=0.1, shift=4.0)`: a logit of scale x mean of the features + shift."""

    def make(*, scale: float = 0.1, shift: float = 4.0) -> bytes:
        nodes = [
            helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "level",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1, 401, 40])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])],
            [
                helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale]),
                helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return bytes(model.SerializeToString())

    return make
