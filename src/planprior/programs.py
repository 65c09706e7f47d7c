"""The programs of a population: `agent.py` and `replay.py`, compiled for all members.

With `population.py`, which calls them, the only file that knows that there are several.
The axes of every array are [P, E, …] or [P, …].

Randomness is counter-based: key = fold_in(fold_in(member's key, purpose), count). No
key is ever stored, and a training that resumes needs none.
"""

import dataclasses
import functools
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from planprior import agent
from planprior import replay as rows
from planprior.config import Config
from planprior.diagnostics import WATCHED
from planprior.hypers import Hypers
from planprior.mapping import alone, on_accelerator
from planprior.placement import Placement
from planprior.priors import PRIORS
from planprior.replay import Replay
from planprior.spec import EnvSpec
from planprior.state import AgentState
from planprior.types import Gaussian, Plan, PRNGKey, Transition

MemberMetrics = dict[str, Num[Array, "P"]]

OTHER_FAULT, ACTION_FAULT = len(WATCHED) + 1, len(WATCHED) + 2

SEQUENTIAL = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
"""Compiler options of an update on a CPU: operations in the order that needs the least
memory. XLA's own order keeps cores busy that matrix products keep busy anyway, at the
price of half as much memory again, which the system has to clear at every update."""

PLAN_METRICS = ("plan_value", "plan_elite_std", "plan_effective_elites", "plan_nan")
"""What plans tell, averaged over E."""


class Purpose(IntEnum):
    """What a key is for."""

    INIT = 0
    ACT = 1
    RANDOM_ACTION = 2
    SAMPLE = 3
    UPDATE = 4
    REANALYSE = 5
    EVALUATE = 6


class Decision(eqx.Module):
    """What is done next in every environment, and what the replay keeps of why.

    Attributes:
        action: The actions.
        plan: The distributions they came from.
        has_plan: Whether there was a plan; random actions have none.
        warm_start: Means for the next plan.
        fault: Why a member is frozen, see `describe_fault`; its actions are 0.
        for_host: Actions, then fault, as one array; see `Population.fetch`.
    """

    action: Float[Array, "P E A"]
    plan: Gaussian
    has_plan: Bool[Array, "P E"]
    warm_start: Float[Array, "P E H A"]
    fault: Int[Array, "P"]
    for_host: Float[Array, "P _"]


class Seen(eqx.Module):
    """What the environments answered, as `envs.pool.Step` has it, by member.

    Attributes:
        observation: The true last observation where an episode ended.
        reward: Rewards.
        terminated: Ends by the task's own rule.
        acted: Where the action was carried out.
        begun: Where an episode began.
        reset_observation: What the next action is chosen from.
    """

    observation: Float[Array, "P E O"]
    reward: Float[Array, "P E"]
    terminated: Bool[Array, "P E"]
    acted: Bool[Array, "P E"]
    begun: Bool[Array, "P E"]
    reset_observation: Float[Array, "P E O"]


def map_members(function: Callable[..., Any], num_members: int) -> Callable[..., Any]:
    """Map over members: `vmap` on accelerators, a loop on CPUs, nothing for one.

    On a CPU a loop was measured faster than `vmap` (4 members of width 128: 114
    against 134 ms an update), since one member already fills its cores.
    """
    if num_members == 1:
        return alone(function)
    if not on_accelerator():
        return lambda *args: jax.lax.map(lambda part: function(*part), args)
    return jax.vmap(function)


@functools.cache
def known_options(**options: Any) -> dict[str, Any] | None:
    """Compiler options, or None where this version of XLA does not know them."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


class Programs:
    """What a population of so many members runs; nothing is compiled before its call.

    Seeds and numbers are arguments, so populations that differ in them alone share
    programs: see `programs_for`.

    Attributes:
        spec: Sizes of the environments.
        config: Static settings.
        num_envs: E.
        placement: The devices, and who is where.
    """

    def __init__(
        self, spec: EnvSpec, config: Config, num_envs: int, placement: Placement
    ) -> None:
        """Name what is to be compiled, and how."""
        self.spec, self.config, self.num_envs = spec, config, num_envs
        self.placement = placement
        self._map = functools.partial(map_members, num_members=placement.members_each)
        compiled = placement.compile
        self.init = compiled(self._init_program)
        self.act = compiled(self.act_program, static=["explore"])
        self.act_without_planning = compiled(jax.vmap(agent.act_without_planning))
        self.act_randomly = compiled(self.random_program)
        self.update = compiled(
            self.update_program,
            static=["num_updates", "learn_policy", "may_tell"],
            donate=0 if self.donates else (),
            options=None if on_accelerator() else known_options(**SEQUENTIAL),
        )
        self.reanalyse = compiled(self.reanalyse_program, donate=1)
        self.add = compiled(self.add_program, donate=0)
        self.begin = compiled(self._begin_program, donate=0)
        self.unpack = compiled(self._unpack_program)
        self.init_replay = jax.jit(
            self._init_replay_program,
            static_argnames="capacity",
            out_shardings=placement.sharding,
        )

    @property
    def donates(self) -> bool:
        """Whether an update writes the new parameters over the old ones.

        Not on a CPU, up to the default size: XLA copies there what it is to write over
        (5 % of an update), and small networks leave other cores to the planner, which
        may go on with the old parameters at the same time. Nor where members take turns
        on it (`map_members`): the new ones are gathered beside all of the old ones, so
        that the copy would spare no memory.
        """
        alone = self.placement.members_each == 1
        return on_accelerator() or (alone and self.config.network.mlp_dim > 512)

    def may_tell(self, tell: bool) -> bool:
        """Whether to take the update's program that can tell how its terms pull.

        Where the device chooses a branch, a GPU's host waits for what it chose: there
        the program without one serves all updates but those that tell.
        """
        return PRIORS[self.config.prior.kind].active and (tell or not on_accelerator())

    def _init_program(self, hypers: Hypers, keys: Key[Array, "P"]) -> AgentState:
        def one(hypers: Hypers, key: PRNGKey) -> AgentState:
            return agent.init(self.spec, self.config, hypers, key=key)

        return jax.vmap(one)(hypers, self._keys_for(keys, Purpose.INIT, 0))

    def _init_replay_program(self, *, capacity: int) -> Replay:
        one = rows.init(*self.replay_sizes(capacity))
        shape = (self.placement.num_members,)
        return jax.tree.map(lambda x: jnp.zeros(shape + x.shape, x.dtype), one)

    def replay_sizes(self, capacity: int) -> tuple[int, int, int, int, int]:
        """What `replay.init` needs to know."""
        spec = self.spec
        sizes = (spec.observation_dim, spec.action_dim, self.config.horizon)
        return (self.num_envs, capacity, *sizes)

    def act_program(
        self,
        agents: AgentState,
        observation: Float[Array, "P E O"],
        warm_start: Float[Array, "P E H A"],
        reset: Bool[Array, "P E"],
        fault: Int[Array, "P"],
        hypers: Hypers,
        keys: Key[Array, "P"],
        purpose: Int[Array, ""],
        step: Int[Array, ""],
        explore: bool,
    ) -> tuple[Decision, MemberMetrics]:
        """`act` before it is compiled; see `Population.act` and `evaluate`."""

        def one(state, observation, warm_start, reset, hypers, key) -> Plan:
            return agent.act(
                state, observation, warm_start, reset, hypers, self.config, key=key,
                explore=explore,
            )  # fmt: skip

        keys = self._keys_for(keys, purpose, step)
        plan = self._map(one)(agents, observation, warm_start, reset, hypers, keys)
        finite = jnp.all(jnp.isfinite(plan.action), axis=(1, 2))
        fault = _first_fault(fault, ~finite, ACTION_FAULT)
        healthy = fault == 0
        nan_count = plan.nan_count.astype(jnp.float32)
        told = (plan.value, plan.elite_std, plan.effective_elites, nan_count)
        means = [jnp.mean(x, axis=1) for x in told]
        metrics: MemberMetrics = dict(zip(PLAN_METRICS, means, strict=True))
        has_plan = jnp.broadcast_to(healthy[:, None], reset.shape)
        made = (plan.action, plan.target, plan.mean)
        nothing = jax.tree.map(jnp.zeros_like, made)
        action, target, mean = _where(healthy, made, nothing)
        for_host = _pack(action, fault)
        return Decision(action, target, has_plan, mean, fault, for_host), metrics

    def random_program(self, keys: Key[Array, "P"], step: Int[Array, ""]) -> Decision:
        """`act_randomly` before it is compiled."""
        actions, horizon = (self.num_envs, self.spec.action_dim), self.config.horizon

        def one(key: PRNGKey) -> Float[Array, "E A"]:
            return jax.random.uniform(key, actions, minval=-1.0, maxval=1.0)

        action = jax.vmap(one)(self._keys_for(keys, Purpose.RANDOM_ACTION, step))
        nothing = Gaussian(jnp.zeros_like(action), jnp.zeros_like(action))
        nowhere = jnp.zeros(action.shape[:2], bool)
        cold_start = jnp.zeros((*action.shape[:2], horizon, action.shape[2]))
        no_fault = jnp.zeros(len(action), jnp.int32)
        for_host = _pack(action, no_fault)
        return Decision(action, nothing, nowhere, cold_start, no_fault, for_host)

    def _begin_program(
        self, replay: Replay, observation: Float[Array, "P E O"]
    ) -> Replay:
        everywhere = jnp.ones(observation.shape[:2], bool)
        return jax.vmap(rows.add)(replay, self._first_rows(observation), everywhere)

    def _first_rows(self, observation: Float[Array, "P E O"]) -> Transition:
        shape = observation.shape[:2]
        zero = jnp.zeros((*shape, self.spec.action_dim))
        no = jnp.zeros(shape, bool)
        return Transition(
            observation=observation,
            action=zero,
            reward=jnp.zeros(shape),
            terminated=no,
            plan=Gaussian(zero, zero),
            has_plan=no,
            planned_at=jnp.zeros(shape, jnp.int32),
            first=~no,
        )

    def add_program(
        self,
        replay: Replay,
        decision: Decision,
        seen: Seen,
        update_count: Int[Array, ""],
    ) -> Replay:
        """`add` before it is compiled; see `Population.add`."""
        row = Transition(
            observation=seen.observation,
            action=decision.action,
            reward=seen.reward,
            terminated=seen.terminated,
            plan=decision.plan,
            has_plan=decision.has_plan,
            planned_at=jnp.full(seen.acted.shape, update_count),
            first=jnp.zeros_like(seen.acted),
        )
        add = jax.vmap(rows.add)
        replay = add(replay, row, seen.acted)
        for _ in range(self.rows_after_end):
            replay = add(replay, self._still_rows(seen.observation), seen.terminated)
        return add(replay, self._first_rows(seen.reset_observation), seen.begun)

    @property
    def rows_after_end(self) -> int:
        """Rows in which a terminal state stays as it is, for nothing.

        Without them no slice begins in the last H − 1 states before an end: the encoder
        would never be trained on them, nor Q heads learn that an end is worth 0.
        """
        learned = self.config.terminations == "learned" and self.spec.can_terminate
        return self.config.horizon - 1 if learned else 0

    def _still_rows(self, observation: Float[Array, "P E O"]) -> Transition:
        row = self._first_rows(observation)
        always = jnp.ones(observation.shape[:2], bool)
        return dataclasses.replace(row, terminated=always, first=~always)

    def sample(
        self, replay: Replay, keys: Key[Array, "P"], count: Int[Array, ""]
    ) -> tuple[Any, Any]:
        """A batch for every member, and where it is from: the same ones for a count."""

        def one(replay: Replay, key: PRNGKey) -> Any:
            size = self.config.batch_size
            return rows.sample(replay, size, update_count=count, key=key)

        return jax.vmap(one)(replay, self._keys_for(keys, Purpose.SAMPLE, count))

    def update_program(
        self,
        agents: AgentState,
        replay: Replay,
        fault: Int[Array, "P"],
        hypers: Hypers,
        keys: Key[Array, "P"],
        update_count: Int[Array, ""],
        tell: Bool[Array, ""],
        num_updates: int,
        learn_policy: bool,
        may_tell: bool,
    ) -> tuple[AgentState, MemberMetrics]:
        """`update` before it is compiled; see `Population.update` and `may_tell`."""

        def one(state, batch, hypers, key, fault, *, telling) -> Any:
            return agent.update(
                state, batch, hypers, self.config, key=key, learn_policy=learn_policy,
                going=fault == 0, tell=telling,
            )  # fmt: skip

        def step(carry: tuple[AgentState, Any], count: Int[Array, ""]) -> Any:
            agents, fault = carry
            batch, _ = self.sample(replay, keys, count)
            step_keys = self._keys_for(keys, Purpose.UPDATE, count)
            # The same for all members, or each would compute both branches of `cond`.
            last = tell & (count == update_count + num_updates - 1)
            learn = self._map(functools.partial(one, telling=may_tell and last))
            agents, metrics = learn(agents, batch, hypers, step_keys, fault)
            fault = _fault_of_update(fault, metrics)
            return (agents, fault), metrics | {"fault": fault}

        if num_updates == 1:
            (agents, _), metrics = step((agents, fault), update_count)
            return agents, metrics
        counts = update_count + jnp.arange(num_updates, dtype=jnp.int32)
        (agents, _), metrics = jax.lax.scan(step, (agents, fault), counts)
        nan_metrics = jnp.sum(metrics["nan_metrics"], axis=0)
        last = jax.tree.map(lambda x: x[-1], metrics)
        return agents, last | {"nan_metrics": nan_metrics}

    def reanalyse_program(
        self,
        agents: AgentState,
        replay: Replay,
        hypers: Hypers,
        keys: Key[Array, "P"],
        update_count: Int[Array, ""],
    ) -> Replay:
        """`reanalyse` before it is compiled; see `Population.reanalyse`."""
        fresh = self.plan_again(agents, replay, hypers, keys, update_count)
        return self.write_plans(replay, *fresh, update_count)

    def plan_again(
        self,
        agents: AgentState,
        replay: Replay,
        hypers: Hypers,
        keys: Key[Array, "P"],
        update_count: Int[Array, ""],
    ) -> tuple[Any, Gaussian]:
        """Slices whose states are planned at again, and the new plans."""
        # The same keys as in the update to come, hence the same slices: it reads the
        # new plans from the replay.
        batch, slices = self.sample(replay, keys, update_count)

        def one(state, batch, hypers, key) -> Gaussian:
            _, plan = agent.reanalyse(state, batch, hypers, self.config, key=key)
            return plan.target

        plan_keys = self._keys_for(keys, Purpose.REANALYSE, update_count)
        return slices, self._map(one)(agents, batch, hypers, plan_keys)

    def write_plans(
        self, replay: Replay, slices: Any, plans: Gaussian, count: Int[Array, ""]
    ) -> Replay:
        """Put new plans in the place of old ones."""
        write = functools.partial(rows.write_plans, update_count=count)
        return jax.vmap(write)(replay, slices, plans)

    def _keys_for(
        self, keys: Key[Array, "P"], purpose: Any, count: Any
    ) -> Key[Array, "P"]:
        return jax.vmap(
            lambda key: jax.random.fold_in(jax.random.fold_in(key, purpose), count)
        )(keys)

    def _unpack_program(self, packed: Float[Array, "P E _"]) -> Seen:
        width = self.spec.observation_dim
        reward, terminated, acted, begun = jnp.moveaxis(packed[..., 2 * width :], -1, 0)
        return Seen(
            observation=packed[..., :width],
            reward=reward,
            terminated=terminated != 0,
            acted=acted != 0,
            begun=begun != 0,
            reset_observation=packed[..., width : 2 * width],
        )


def programs_for(
    spec: EnvSpec,
    config: Config,
    num_members: int,
    num_envs: int,
    num_devices: int | None = None,
) -> Programs:
    """The programs of a population of such sizes, one and the same for equal ones.

    Tracing and compiling takes far longer than a first call; who loads ten agents of
    one kind, or trains again in the same process, should not wait for it ten times.

    Args:
        spec: The environments; tasks that differ only in what no program reads, such as
            the name or the time limit, share programs.
        config: Static settings.
        num_members: P.
        num_envs: E.
        num_devices: The most devices to use; all local ones if None.
    """
    sizes = EnvSpec(
        name="any",
        observation_dim=spec.observation_dim,
        action_dim=spec.action_dim,
        episode_length=1,
        can_terminate=spec.can_terminate,
    )
    return _shared(sizes, config, num_members, num_envs, num_devices)


@functools.lru_cache(maxsize=16)
def _shared(
    sizes: EnvSpec,
    config: Config,
    num_members: int,
    num_envs: int,
    num_devices: int | None,
) -> Programs:
    return Programs(sizes, config, num_envs, Placement(num_members, num_devices))


def _pack(action: Float[Array, "P E A"], fault: Int[Array, "P"]) -> Float[Array, "P _"]:
    flat = action.reshape(len(action), -1)
    return jnp.concatenate([flat, fault[:, None].astype(flat.dtype)], axis=1)


def _first_fault(
    fault: Int[Array, "P"], bad: Bool[Array, "P"], code: int
) -> Int[Array, "P"]:
    return jnp.where((fault == 0) & bad, code, fault)


def _fault_of_update(fault: Int[Array, "P"], metrics: MemberMetrics) -> Int[Array, "P"]:
    for code, name in enumerate(WATCHED, start=1):
        if name in metrics:
            fault = _first_fault(fault, ~jnp.isfinite(metrics[name]), code)
    # Others may well be infinite: λ is, where only imitation counts.
    return _first_fault(fault, metrics["nan_metrics"] > 0, OTHER_FAULT)


def _where(chosen: Bool[Array, "P"], yes: Any, no: Any) -> Any:
    """Member by member, `yes` or `no`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)
