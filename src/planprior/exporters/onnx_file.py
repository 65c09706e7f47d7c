"""The policy as ONNX: a few operators that every runtime has.

Written node by node, since the policy is two stacks of layers: Gemm, LayerNormalization
and mish (as Softplus, Tanh and Mul), a Softmax within groups at the end of the encoder,
a Tanh at the end of the policy.
"""

import importlib.util
from typing import Any

import numpy as np
from jaxtyping import Float

from planprior.actor import CanAct
from planprior.nets import MLP, Linear, NormedLinear, SimplexMLP
from planprior.normed import LAYER_NORM_EPSILON

OPSET = 17
"""The oldest with LayerNormalization."""

IR_VERSION = 8
"""The file format of that time, so that older runtimes read it too."""

CLOSE = 1e-5
"""How far onnxruntime may be from the agent."""


def check() -> None:
    """Check that files can be written and looked at.

    Raises:
        ModuleNotFoundError: A package is missing.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"ONNX files need the package {package}; run: "
                "pip install 'planprior[onnx]'"
            )


def write(agent: CanAct) -> bytes:
    """The policy's action without noise: `observation` [batch, O] to `action`."""
    from onnx import TensorProto, checker, helper

    spec, graph = agent.spec, _Graph()
    _policy(graph, agent)
    described = helper.make_graph(
        graph.nodes,
        "policy",
        [_tensor(helper, TensorProto.FLOAT, "observation", spec.observation_dim)],
        [_tensor(helper, TensorProto.FLOAT, "action", spec.action_dim)],
        graph.constants,
    )
    model = helper.make_model(
        described,
        producer_name="planprior",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(
    written: bytes, observation: Float[np.ndarray, "batch O"]
) -> Float[np.ndarray, "batch A"]:
    """Load a policy in onnxruntime, and ask it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["action"], {"observation": observation})[0])


def about() -> dict[str, Any]:
    """What a loader must know."""
    return {"runtime": "ONNX", "opset": OPSET, "ir_version": IR_VERSION}


class _Graph:
    """Nodes and constants, named by their number as they come."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, *inputs: str, to: str = "", **how: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        output = to or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **how))
        return output

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _tensor(helper: Any, dtype: int, name: str, size: int) -> Any:
    return helper.make_tensor_value_info(name, dtype, ["batch", size])


def _policy(graph: _Graph, agent: CanAct) -> None:
    z = _encoder(graph, "observation", agent.state.model.encoder)
    net = agent.state.policy.net
    for layer in net.hidden:
        z = _mish(graph, _normed(graph, z, layer))
    raw = _linear(graph, z, _mean_half(net))
    # Both families: tanh(μ) is the action without noise.
    graph.node("Tanh", raw, to="action")


def _mean_half(net: MLP) -> Linear:
    """The last layer without what makes log σ."""
    size = len(net.last.bias) // 2
    return Linear(net.last.weight[:, :size], net.last.bias[:size])


def _encoder(graph: _Graph, x: str, encoder: SimplexMLP) -> str:
    for layer in encoder.layers[:-1]:
        x = _mish(graph, _normed(graph, x, layer))
    x = _normed(graph, x, encoder.layers[-1])
    # A size of 0 leaves an axis as it is: the batch.
    latent = len(encoder.layers[-1].shift)
    groups = graph.constant([0, latent // encoder.group, encoder.group])
    x = graph.node("Softmax", graph.node("Reshape", x, groups), axis=-1)
    return graph.node("Reshape", x, graph.constant([0, latent]))


def _normed(graph: _Graph, x: str, layer: NormedLinear) -> str:
    scale, shift = graph.constant(layer.scale), graph.constant(layer.shift)
    x = _linear(graph, x, layer.linear)
    return graph.node(
        "LayerNormalization", x, scale, shift, axis=-1, epsilon=LAYER_NORM_EPSILON
    )


def _linear(graph: _Graph, x: str, linear: Linear) -> str:
    return graph.node(
        "Gemm", x, graph.constant(linear.weight), graph.constant(linear.bias)
    )


def _mish(graph: _Graph, x: str) -> str:
    return graph.node("Mul", x, graph.node("Tanh", graph.node("Softplus", x)))
