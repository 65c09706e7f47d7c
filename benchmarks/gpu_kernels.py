"""What a plan and an update start and move on an H100, counted without one.

    pip install 'jax[cuda13]'
    python benchmarks/gpu_kernels.py --members 1 8 --methods tdmpc2 bmpc

XLA compiles for a card that is described to it; of NVIDIA's packages only the compiler
is needed. It cannot try out how products are best computed, so that every one becomes
a kernel of Triton's, and nothing is timed: what these tables are for is to compare two
versions of a program. Kernels are how many are started, loops included. Megabytes are
what all of them read and write, as if nothing stayed in a cache; divided by the card's
3350 GB/s, they are the least time that moving them takes.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

# Before JAX is imported: what there is of a GPU here is only its compiler.
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
    XLA_FLAGS=os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0",
)

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planprior import experiment
from planprior.envs.registry import task_spec
from planprior.hlo import count_kernels, moved_bytes
from planprior.methods import METHODS
from planprior.population import Population
from planprior.runtime import PRECISIONS

DOG = task_spec("dog-run")
PARTS = ("plan", "update")
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
"""
"""As `nvidia-smi` and CUDA's device properties describe it."""


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let the library choose the forms that it takes there."""
    saved, jax.default_backend = jax.default_backend, lambda: "gpu"
    try:
        yield
    finally:
        jax.default_backend = saved


def card() -> NamedSharding:
    """Where the programs are to run."""
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology="1x1x1"
        )
    except (RuntimeError, NotImplementedError) as error:
        raise SystemExit(
            "The compiler for NVIDIA cards is missing; it comes with "
            f"pip install 'jax[cuda13]' ({error})"
        ) from None
    return NamedSharding(Mesh(np.array(described.devices), ("card",)), PartitionSpec())


def lowered(method: str, members: int, part: str, where: NamedSharding) -> Any:
    """Trace a program of `members` agents that learn dog-run with one environment."""
    train = experiment.TrainConfig(task=DOG.name, method=method, size="5", num_envs=1)
    resolved = experiment.resolve(train, DOG, accelerator=True)
    population = Population(
        DOG, resolved.config, list(range(members)), members * [resolved.hypers],
        num_envs=1, capacity=128,
    )  # fmt: skip

    def there(tree: Any) -> Any:
        """Shapes in the place of arrays, on the card."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
        )

    agents = there(jax.eval_shape(population.init))
    own = there(jax.eval_shape(lambda: (population.hypers, population.keys)))
    fault, count = there((np.zeros(members, np.int32), np.int32(0)))
    if part == "plan":
        observation = np.zeros((members, 1, DOG.observation_dim), np.float32)
        seen = (observation, population.cold_start(), np.zeros((members, 1), bool))
        return population.programs.act.lower(
            agents, *there(seen), fault, *own, count, count, explore=True
        )
    replay = there(jax.eval_shape(population.init_replay))
    return population.programs.update.lower(
        agents, replay, fault, *own, count, there(np.bool_(0)), num_updates=1,
        learn_policy=True, may_tell=False,
    )  # fmt: skip


def at_least_one(text: str) -> int:
    """A number of members."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}; it must be a whole number from 1 on"
        )
    return int(text)


def main() -> None:
    """Compile and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--members", type=at_least_one, nargs="+", default=[1, 8])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["tdmpc2"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--precision", choices=PRECISIONS, default="tensorfloat32")
    asked = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", PRECISIONS[asked.precision])
    where = card()
    print("| members | method | part | kernels | MB | compile s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method, members, part in product(asked.methods, asked.members, asked.parts):
        with as_on_a_gpu():
            program = lowered(method, members, part, where)
            began = time.perf_counter()
            text = program.compile().as_text() or ""
        seconds = time.perf_counter() - began
        kernels, megabytes = count_kernels(text).total(), moved_bytes(text) / 1e6
        print(
            f"| {members} | `{method}` | {part} | {kernels} | {megabytes:.0f} "
            f"| {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
