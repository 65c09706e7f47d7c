"""How TD-MPC2's tensors, and its descendants', are named and laid out.

There a linear weight is (out, in), here (in, out). The heads of an ensemble are stacked
on their first axis. Inputs are concatenated in the same order: latent, then action.

Since 2024 layer i of a network NET is `NET.i.weight`, `NET.i.bias`, `NET.i.ln.weight`
and `NET.i.ln.bias`, except that the last layer of most has no `ln`. The releases of
2023 number the heads' tensors instead, in this order: `_Qs.params.0`, `.1`, ….
"""

import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from planprior.importers.pickle_machine import FileError
from planprior.nets import MLP, Linear, NormedLinear, SimplexMLP

Arrays = Mapping[str, np.ndarray]

PARTS = ("weight", "bias", "ln.weight", "ln.bias")


def depth(arrays: Arrays, net: str) -> int:
    """Number of layers of a network.

    Raises:
        KeyError: There is none of that name.
    """
    names = (re.fullmatch(re.escape(net) + r"\.(\d{1,3})\.weight", k) for k in arrays)
    layers = [int(match[1]) for match in names if match]
    if not layers:
        raise KeyError(f"{net}.0.weight")
    return 1 + max(layers)


def linear(arrays: Arrays, layer: str) -> Linear:
    """A linear map."""
    weight = np.swapaxes(arrays[f"{layer}.weight"], -1, -2)
    return Linear(_float32(weight), _float32(arrays[f"{layer}.bias"]))


def normed(arrays: Arrays, layer: str) -> NormedLinear:
    """A linear map and its LayerNorm."""
    scale, shift = (arrays[f"{layer}.ln.{name}"] for name in ("weight", "bias"))
    return NormedLinear(linear(arrays, layer), _float32(scale), _float32(shift))


def mlp(arrays: Arrays, net: str) -> MLP:
    """A network with a plain last layer; stacked heads give a stacked one."""
    last = depth(arrays, net) - 1
    hidden = tuple(normed(arrays, f"{net}.{i}") for i in range(last))
    return MLP(hidden, linear(arrays, f"{net}.{last}"))


def simplex(arrays: Arrays, net: str, group: int) -> SimplexMLP:
    """A network that ends on simplices of length `group`."""
    layers = range(depth(arrays, net))
    return SimplexMLP(tuple(normed(arrays, f"{net}.{i}") for i in layers), group)


def modern(arrays: Arrays) -> dict[str, np.ndarray]:
    """Give tensors of any release today's names.

    `_target_Qs_params` is where today's files keep the slow copy, `_target_Qs.params`
    where those of 2023 do, and `_target_Qs` what the program itself calls it.
    """
    renamed = {}
    for name, array in arrays.items():
        name = re.sub(r"^_target_Qs(\.params|_params)?\.(?=\d)", "_target_Qs.", name)
        numbered = re.fullmatch(r"(_Qs\.params|_target_Qs)\.(\d{1,4})", name)
        if numbered:
            layer, part = divmod(int(numbered[2]), len(PARTS))
            name = f"{numbered[1]}.{layer}.{PARTS[part]}"
        if name in renamed:
            raise FileError(f"has two tensors that are {name}")
        renamed[name] = array
    return renamed


def _float32(array: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.asarray(array, np.float32))
