"""The files for other runtimes: each checked by its runtime, and what they are.

    agent/policy.onnx         the policy, for ONNX runtimes
    agent/policy.stablehlo    the policy
    agent/plan.stablehlo      one plan
    agent/runtimes.json       their inputs, outputs, platforms, an example of each

The example tells a user, in whatever language, that a program was loaded and is fed as
it should be.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior import __version__
from planprior.actor import CanAct
from planprior.checkpoint import CheckpointError
from planprior.exporters import onnx_file, programs, stablehlo
from planprior.exporters.programs import Program
from planprior.mapping import float32_products

FORMAT = 1
NAME = "runtimes.json"
POLICY, PLAN = "policy.stablehlo", "plan.stablehlo"
ONNX = "policy.onnx"


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        stablehlo: The policy, and one plan, as StableHLO.
        onnx: The policy as ONNX.
        platforms: What StableHLO programs are for.
        samples: As for `programs.plan_program`.
        iterations: As for `programs.plan_program`.
        ahead: As for `programs.plan_program`.
    """

    stablehlo: bool = False
    onnx: bool = False
    platforms: tuple[str, ...] = ("cpu",)
    samples: int | None = None
    iterations: int | None = None
    ahead: bool = False

    def check(self) -> None:
        """Check what can be checked before an agent is loaded.

        Raises:
            ValueError: A choice makes no sense.
            ModuleNotFoundError: A package is missing.
        """
        for field in dataclasses.fields(self):
            value, plain = getattr(self, field.name), field.default
            if not self.stablehlo and field.name != "onnx" and value != plain:
                raise ValueError(f"{field.name} is {value}; it is for --stablehlo only")
        if self.stablehlo:
            stablehlo.check(self.platforms)
        if self.onnx:
            onnx_file.check()


class Made(NamedTuple):
    """A file.

    Attributes:
        content: Its bytes.
        about: What is said of it.
    """

    content: bytes
    about: dict[str, Any]


def files(agent: CanAct, wanted: Wanted) -> dict[str, bytes]:
    """Export, check, and describe.

    Args:
        agent: The agent.
        wanted: What to export.

    Returns:
        Files by name; none where nothing is wanted.

    Raises:
        ValueError: A number makes no sense.
        CheckpointError: What was written does not compute what the agent does.
    """
    made = dict(_made(agent, wanted))
    if not made:
        return {}
    said = ("task", "method", "size", "step")
    document = {
        "format": FORMAT,
        "agent": {name: agent.info.get(name) for name in said},
        "versions": {"planprior": __version__, "jax": jax.__version__},
        "files": {name: one.about for name, one in made.items()},
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return {name: one.content for name, one in made.items()} | {NAME: text.encode()}


def _made(agent: CanAct, wanted: Wanted) -> Iterator[tuple[str, Made]]:
    policy = programs.policy_program(agent)
    if wanted.onnx:
        yield ONNX, _onnx(agent, policy)
    if wanted.stablehlo:
        yield POLICY, _stablehlo(POLICY, policy, wanted.platforms)
        plan, planner = programs.plan_program(
            agent, samples=wanted.samples, iterations=wanted.iterations,
            ahead=wanted.ahead,
        )  # fmt: skip
        made = _stablehlo(PLAN, plan, wanted.platforms)
        yield PLAN, made._replace(about=made.about | {"planner": planner._asdict()})


def _stablehlo(name: str, program: Program, platforms: tuple[str, ...]) -> Made:
    written = stablehlo.write(program, platforms)
    inputs = program.example()
    device = stablehlo.device_for(platforms)
    # Where the program is to run, if it can be: another kind of device rounds
    # otherwise, and a plan whose elites are others is another plan.
    with jax.default_device(device):
        outputs = program.run(inputs)
    if device is not None:
        found = stablehlo.run(written, list(inputs.values()), device)
        _compare(name, found, list(outputs.values()), stablehlo.CLOSE)
    about = stablehlo.about(written) | _described(program, inputs, outputs)
    return Made(written, about)


def _onnx(agent: CanAct, policy: Program) -> Made:
    """Checked at observations near and far, of which the last is the example."""
    written = onnx_file.write(agent)
    example = policy.example()
    drawn = np.random.default_rng(1).normal(size=(64, agent.spec.observation_dim))
    scales = np.repeat(np.array([0.1, 1, 10, 100], np.float32), 16)[:, None]
    seen = np.vstack([drawn.astype(np.float32) * scales, example["observation"]])
    expected = np.asarray(jax.jit(jax.vmap(float32_products(policy.call)))(seen)[0])
    _compare(ONNX, [onnx_file.run(written, seen)], [expected], onnx_file.CLOSE)
    described = _described(policy, example, {"action": expected[-1]})
    return Made(written, onnx_file.about() | _batched(described))


def _compare(
    name: str, found: list[np.ndarray], expected: list[np.ndarray], close: float
) -> None:
    worst = max(
        float(np.max(np.abs(a - b))) for a, b in zip(found, expected, strict=True)
    )
    if not worst <= close:
        raise CheckpointError(
            f"{name} differs from the agent by {worst:g}, where at most {close:g} is "
            "allowed; nothing was exported"
        )


def _described(
    program: Program, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "inputs": [port._asdict() for port in program.inputs],
        "outputs": [port._asdict() for port in program.outputs],
        "example": {
            "inputs": {name: value.tolist() for name, value in inputs.items()},
            "outputs": {name: value.tolist() for name, value in outputs.items()},
        },
    }


def _batched(described: dict[str, Any]) -> dict[str, Any]:
    """The same with a first axis of any length, here of one."""

    def port(one: dict[str, Any]) -> dict[str, Any]:
        return one | {"shape": ["batch", *one["shape"]]}

    def example(values: dict[str, Any]) -> dict[str, Any]:
        return {name: [value] for name, value in values.items()}

    ports = {name: [*map(port, described[name])] for name in ("inputs", "outputs")}
    examples = {name: example(one) for name, one in described["example"].items()}
    return ports | {"example": examples}
