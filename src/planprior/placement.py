"""Which device carries which members: each as many as the others, side by side.

Each device runs a population's programs on its own members, as if there were no others;
within one, devices wait for each other only to learn whether all can go on
(`Placement.anywhere`). What a member does cannot depend on how many devices there are,
but for rounding, therefore, and a training may go on with another number.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from planprior.mapping import float32_products

AXIS = "members"
Tree = TypeVar("Tree")


class Placement:
    """Where members are; one device needs nothing of what is here.

    Attributes:
        num_members: P.
        available: Devices there are.
        devices: Those that carry members, as many as divide P.
        sharding: Of every array of members, [P, …]; None on a single device.
    """

    def __init__(self, num_members: int, num_devices: int | None = None) -> None:
        """Choose devices.

        Not all of them where their number does not divide that of the members: one
        device with a member more than the others would keep all of them waiting.

        Args:
            num_members: P.
            num_devices: The most devices to use; all local ones if None.
        """
        found = jax.local_devices()[:num_devices]
        self.num_members, self.available = num_members, len(found)
        used = max(n for n in range(1, len(found) + 1) if num_members % n == 0)
        self.devices = found[:used]
        self.sharding: NamedSharding | None = None
        if used > 1:
            mesh = Mesh(np.array(self.devices), (AXIS,))
            self.sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    @property
    def members_each(self) -> int:
        """Members on each device."""
        return self.num_members // len(self.devices)

    def describe(self) -> str:
        """One sentence for the user, where there is more than one device."""
        used, count, there = len(self.devices), self.num_members, self.available
        members = "1 member" if count == 1 else f"{count} members"
        if used == there:
            return f"{members} on {used} devices, {self.members_each} on each"
        text = f"{members} on {used} of {there} devices, {self.members_each} on each"
        return f"{text}: {there} would not share {count} equally"

    def put(self, tree: Tree) -> Tree:
        """Bring arrays [P, …] to their devices; none moves that is there already."""
        return tree if self.sharding is None else jax.device_put(tree, self.sharding)

    def anywhere(self, flag: Bool[Array, ""]) -> Bool[Array, ""]:
        """Whether a flag is up on any of the devices, within a compiled program."""
        if self.sharding is None:
            return flag
        return jax.lax.pmax(flag.astype("int32"), AXIS) > 0

    def compile(
        self,
        program: Callable[..., Any],
        *,
        static: Sequence[str] = (),
        donate: int | Sequence[int] = (),
        shared: Sequence[int] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """`jax.jit` of a program of members, which each device runs for its own.

        Args:
            program: Of arrays [P, …] and of scalars, which all members share; returns
                arrays [P, …].
            static: Names of its keyword arguments that are no arrays.
            donate: Positions of arguments that are used up.
            shared: Positions of arguments that hold arrays of no member, which every
                device gets whole.
            options: Compiler options.
        """
        spread = float32_products(self._on_each_device(program, frozenset(shared)))
        return jax.jit(
            spread, static_argnames=static, donate_argnums=donate,
            compiler_options=options,
        )  # fmt: skip

    def _on_each_device(
        self, program: Callable[..., Any], shared: frozenset[int]
    ) -> Callable[..., Any]:
        if self.sharding is None:
            return program
        sharding = self.sharding

        def spread(*args: Any, **static: Any) -> Any:
            here = functools.partial(program, **static)
            specs = tuple(
                PartitionSpec() if i in shared else jax.tree.map(_spec, arg)
                for i, arg in enumerate(args)
            )
            # What is shared is only read, so there is nothing to check.
            return jax.shard_map(
                here, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec,
                check_vma=False,
            )(*args)  # fmt: skip

        return spread


def _spec(leaf: Any) -> PartitionSpec:
    return PartitionSpec(AXIS) if np.ndim(leaf) else PartitionSpec()
