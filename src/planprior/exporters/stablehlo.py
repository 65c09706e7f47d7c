"""Programs as StableHLO, in the container of `jax.export`."""

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from planprior.exporters.programs import Program

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
CLOSE = 1e-5
"""How far a loaded program may be from the agent, on the machine that exports it."""


def check(platforms: Sequence[str]) -> None:
    """Check that programs can be written for these platforms.

    Raises:
        ValueError: One is unknown, or there is none.
        ModuleNotFoundError: What `jax.export` writes files with is missing.
    """
    allowed = f"it must be of {', '.join(PLATFORMS)}"
    if not platforms:
        raise ValueError(f"platforms is empty; {allowed}")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise ValueError(f"platforms is {platform!r}; {allowed}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ModuleNotFoundError(
            "StableHLO files need the package flatbuffers; run: "
            "pip install 'planprior[stablehlo]'"
        )


def write(program: Program, platforms: Sequence[str]) -> bytes:
    """Lower a program for some platforms, weights inside.

    Products of matrices are exact in float32, whatever the device would rather do.
    """
    with jax.default_matmul_precision("highest"):
        exported = export.export(jax.jit(program.call), platforms=tuple(platforms))(
            *program.shapes()
        )
    return bytes(exported.serialize())


def run(written: bytes, inputs: Sequence[np.ndarray], device: Any) -> list[np.ndarray]:
    """Load a program as a stranger would, and call it."""
    loaded = export.deserialize(bytearray(written))
    with jax.default_device(device):
        return [np.asarray(output) for output in jax.jit(loaded.call)(*inputs)]


def device_for(platforms: Sequence[str]) -> Any | None:
    """A device of this machine that runs what is for these platforms, if there is."""
    for platform in platforms:
        with contextlib.suppress(RuntimeError):  # no such device
            return jax.local_devices(backend=platform)[0]
    return None


def about(written: bytes) -> dict[str, Any]:
    """What a loader must know."""
    loaded = export.deserialize(bytearray(written))
    return {
        "runtime": "StableHLO (jax.export)",
        "platforms": list(loaded.platforms),
        "calling_convention": loaded.calling_convention_version,
    }
