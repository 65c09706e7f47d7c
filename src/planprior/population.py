"""Several agents in one program. The only file that knows that there are several.

P members (seed × prior weight) of E environments each, every one with its own replay,
keys, scales and numbers. Everything here is `agent.py` and `replay.py`, mapped over
members and compiled. The axes of every array are [P, E, …] or [P, …].

Randomness is counter-based: key = fold_in(fold_in(member's key, purpose), count). No
key is ever stored, and a training that resumes needs none.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, Num

from planprior import agent
from planprior import replay as rows
from planprior.config import Config
from planprior.diagnostics import WATCHED
from planprior.hypers import Hypers
from planprior.placement import Placement
from planprior.replay import Replay
from planprior.spec import EnvSpec
from planprior.state import AgentState
from planprior.types import Gaussian, Plan, PRNGKey, Transition

MemberMetrics = dict[str, Num[Array, "P"]]

OTHER_FAULT, ACTION_FAULT = len(WATCHED) + 1, len(WATCHED) + 2


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
    """What the environments answered, as `envs.base.Step` has it, by member.

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

        def alone(*args: Any) -> Any:
            result = function(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], result)

        return alone
    if jax.default_backend() == "cpu":
        return lambda *args: jax.lax.map(lambda part: function(*part), args)
    return jax.vmap(function)


class Population:
    """The compiled programs of P members that share a `Config`.

    Attributes:
        spec: The environments.
        config: Static settings.
        num_members: P.
        num_envs: E.
        capacity: Rows of each member's replay.
        hypers: Traced numbers of every member.
        placement: The devices, and who is where.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: Config,
        seeds: Sequence[int],
        hypers: Sequence[Hypers],
        *,
        num_envs: int,
        capacity: int,
        num_devices: int | None = None,
    ) -> None:
        """Prepare programs; nothing is compiled before it is called.

        Args:
            spec: The environments.
            config: Static settings, the same for all members.
            seeds: One per member.
            hypers: One per member.
            num_envs: Environments per member.
            capacity: Replay rows per member.
            num_devices: The most devices to use; all local ones if None.
        """
        self.spec, self.config = spec, config
        self.num_members, self.num_envs = len(seeds), num_envs
        self.capacity = capacity
        self.placement = placement = Placement(len(seeds), num_devices)
        self.hypers: Hypers = placement.put(_stack([h.arrays() for h in hypers]))
        self._keys = placement.put(_stack([jax.random.key(seed) for seed in seeds]))
        self._map = functools.partial(map_members, num_members=placement.members_each)
        compiled = placement.compile
        self._init = compiled(self._init_program)
        self._act = compiled(self._act_program, static=["explore"])
        self._act_without_planning = compiled(jax.vmap(agent.act_without_planning))
        self._random = compiled(self._random_program)
        self._update = compiled(
            self._update_program,
            static=["num_updates", "learn_policy"],
            donate=0 if self._donates() else (),
        )
        self._reanalyse = compiled(self._reanalyse_program, donate=1)
        self._add = compiled(self._add_program, donate=0)
        self._begin = compiled(self._begin_program, donate=0)
        self._unpack = compiled(self._unpack_program)

    def _donates(self) -> bool:
        """Whether an update writes the new parameters over the old ones.

        Small networks leave a CPU's other cores idle; there the old ones are kept until
        the planner, which may run at the same time, has done with them.
        """
        small = self.config.network.mlp_dim < 256
        return not (small and jax.default_backend() == "cpu")

    # --- What there is at the start ---------------------------------------------------

    def init(self) -> AgentState:
        """Fresh agents, [P]."""
        return self._init(self.hypers, self._keys)

    def _init_program(self, hypers: Hypers, keys: Key[Array, "P"]) -> AgentState:
        def one(hypers: Hypers, key: PRNGKey) -> AgentState:
            return agent.init(self.spec, self.config, hypers, key=key)

        return jax.vmap(one)(hypers, self._keys_for(keys, Purpose.INIT, 0))

    def num_parameters(self) -> int:
        """Parameters that one member learns."""
        state = jax.eval_shape(self.init)
        learned = (state.model, state.policy, state.prior)
        total = sum(leaf.size for leaf in jax.tree.leaves(learned))
        return total // self.num_members

    def init_replay(self, capacity: int | None = None) -> Replay:
        """Empty replays, [P], of the population's capacity or another."""
        sizes = self._replay_sizes(capacity or self.capacity)

        def program() -> Replay:
            one = rows.init(*sizes)
            shape = (self.num_members,)
            return jax.tree.map(lambda x: jnp.zeros(shape + x.shape, x.dtype), one)

        return jax.jit(program, out_shardings=self.placement.sharding)()

    def replay_bytes(self) -> int:
        """Bytes that the replays of all members take."""
        return self.num_members * rows.num_bytes(*self._replay_sizes(self.capacity))

    def _replay_sizes(self, capacity: int) -> tuple[int, int, int, int, int]:
        spec = self.spec
        sizes = (spec.observation_dim, spec.action_dim, self.config.horizon)
        return (self.num_envs, capacity, *sizes)

    def can_sample(self, replay: Replay) -> bool:
        """Whether the replays of all members hold a slice to learn from."""
        return bool(jnp.all(jax.vmap(rows.num_starts)(replay) > 0))

    def cold_start(self, num_envs: int | None = None) -> Float[Array, "P E H A"]:
        """Warm starts before the first plan."""
        envs = self.num_envs if num_envs is None else num_envs
        shape = (envs, self.config.horizon, self.spec.action_dim)
        return self.placement.put(jnp.zeros((self.num_members, *shape)))

    # --- Acting -----------------------------------------------------------------------

    def act(
        self,
        agents: AgentState,
        observation: ArrayLike,
        warm_start: Float[Array, "P E H A"],
        reset: ArrayLike,
        step: int,
        fault: ArrayLike | None = None,
    ) -> tuple[Decision, MemberMetrics]:
        """Plan with exploration; also what the plans tell, averaged over E.

        A member whose plan holds NaN is frozen.

        Args:
            agents: All members.
            observation: [P, E, O].
            warm_start: Of the previous decision.
            reset: Where an episode starts, [P, E].
            step: Steps made so far, which the randomness follows.
            fault: Why members are frozen, if any is.
        """
        keys = self._keys, np.int32(Purpose.ACT), np.int32(step)
        seen = observation, warm_start, reset, self._no_fault_unless(fault)
        return self._act(
            agents, *self.placement.put(seen), self.hypers, *keys, explore=True
        )

    def evaluate(
        self,
        agents: AgentState,
        observation: ArrayLike,
        warm_start: Float[Array, "P E H A"],
        reset: ArrayLike,
        step: int,
    ) -> Decision:
        """Plan without exploration, for any number of environments."""
        keys = self._keys, np.int32(Purpose.EVALUATE), np.int32(step)
        seen = observation, warm_start, reset, self.no_fault()
        decision, _ = self._act(
            agents, *self.placement.put(seen), self.hypers, *keys, explore=False
        )
        return decision

    def act_without_planning(
        self, agents: AgentState, observation: ArrayLike
    ) -> Float[Array, "P E A"]:
        """Take the bare policies' actions, without noise."""
        return self._act_without_planning(agents, self.placement.put(observation))

    def act_randomly(self, step: int) -> Decision:
        """Take uniformly random actions."""
        return self._random(self._keys, np.int32(step))

    def _act_program(
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
        told = {
            "plan_value": plan.value,
            "plan_elite_std": plan.elite_std,
            "plan_effective_elites": plan.effective_elites,
            "plan_nan": plan.nan_count.astype(jnp.float32),
        }
        metrics = {name: jnp.mean(x, axis=1) for name, x in told.items()}
        has_plan = jnp.broadcast_to(healthy[:, None], reset.shape)
        made = (plan.action, plan.target, plan.mean)
        nothing = jax.tree.map(jnp.zeros_like, made)
        action, target, mean = _where(healthy, made, nothing)
        for_host = _pack(action, fault)
        return Decision(action, target, has_plan, mean, fault, for_host), metrics

    def _random_program(self, keys: Key[Array, "P"], step: Int[Array, ""]) -> Decision:
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

    # --- Remembering ------------------------------------------------------------------

    def begin(self, replay: Replay, observation: ArrayLike) -> Replay:
        """Start an episode in every environment."""
        return self._begin(replay, self.placement.put(observation))

    def add(
        self, replay: Replay, decision: Decision, seen: Seen, update_count: int
    ) -> Replay:
        """Store a step, and the first row of the next episode where one began."""
        return self._add(replay, decision, seen, np.int32(update_count))

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

    def _add_program(
        self,
        replay: Replay,
        decision: Decision,
        seen: Seen,
        update_count: Int[Array, ""],
    ) -> Replay:
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
        would never be trained on them, nor the value of an end be learned to be 0.
        """
        learned = self.config.terminations == "learned" and self.spec.can_terminate
        return self.config.horizon - 1 if learned else 0

    def _still_rows(self, observation: Float[Array, "P E O"]) -> Transition:
        row = self._first_rows(observation)
        always = jnp.ones(observation.shape[:2], bool)
        return dataclasses.replace(row, terminated=always, first=~always)

    # --- Learning ---------------------------------------------------------------------

    def update(
        self,
        agents: AgentState,
        replay: Replay,
        update_count: int,
        *,
        num_updates: int,
        learn_policy: bool = True,
        fault: ArrayLike | None = None,
        tell: bool = False,
    ) -> tuple[AgentState, MemberMetrics]:
        """Make gradient steps, each on a batch of its own.

        A member learns until its losses or gradients are not finite (`agent.update`),
        and from then on stays as it is. The others do not notice.

        Args:
            agents: All members; donated, unless they are small and on a CPU.
            replay: What they learn from.
            update_count: Gradient steps made so far.
            num_updates: How many to make; one program is compiled per number.
            learn_policy: See `agent.update`.
            fault: Why members are frozen, if any is.
            tell: See `agent.update`; of several, the last one tells.

        Returns:
            The agents, and the metrics of the last step; of `nan_metrics` the sum.
            `fault` is one of them.
        """
        fault = self.placement.put(self._no_fault_unless(fault))
        return self._update(
            agents, replay, fault, self.hypers, self._keys, np.int32(update_count),
            np.bool_(tell), num_updates=num_updates, learn_policy=learn_policy,
        )  # fmt: skip

    def reanalyse(
        self, agents: AgentState, replay: Replay, update_count: int
    ) -> Replay:
        """Plan again at states of the batch that the coming update will draw."""
        return self._reanalyse(
            agents, replay, self.hypers, self._keys, np.int32(update_count)
        )

    def _sample(
        self, replay: Replay, keys: Key[Array, "P"], count: Int[Array, ""]
    ) -> tuple[Any, Any]:
        def one(replay: Replay, key: PRNGKey) -> Any:
            size = self.config.batch_size
            return rows.sample(replay, size, update_count=count, key=key)

        return jax.vmap(one)(replay, self._keys_for(keys, Purpose.SAMPLE, count))

    def _update_program(
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
    ) -> tuple[AgentState, MemberMetrics]:
        def one(state, batch, hypers, key, fault, *, telling) -> Any:
            return agent.update(
                state, batch, hypers, self.config, key=key, learn_policy=learn_policy,
                going=fault == 0, tell=telling,
            )  # fmt: skip

        def step(carry: tuple[AgentState, Any], count: Int[Array, ""]) -> Any:
            agents, fault = carry
            batch, _ = self._sample(replay, keys, count)
            step_keys = self._keys_for(keys, Purpose.UPDATE, count)
            # The same for all members, or each would compute both branches of `cond`.
            last = tell & (count == update_count + num_updates - 1)
            learn = self._map(functools.partial(one, telling=last))
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

    def _reanalyse_program(
        self,
        agents: AgentState,
        replay: Replay,
        hypers: Hypers,
        keys: Key[Array, "P"],
        update_count: Int[Array, ""],
    ) -> Replay:
        # The same keys as in the update to come, hence the same slices: it reads the
        # new plans from the replay.
        batch, slices = self._sample(replay, keys, update_count)

        def one(state, batch, hypers, key) -> Gaussian:
            _, plan = agent.reanalyse(state, batch, hypers, self.config, key=key)
            return plan.target

        plan_keys = self._keys_for(keys, Purpose.REANALYSE, update_count)
        plans = self._map(one)(agents, batch, hypers, plan_keys)
        write = functools.partial(rows.write_plans, update_count=update_count)
        return jax.vmap(write)(replay, slices, plans)

    # --- Looking at the programs ------------------------------------------------------

    def lower_act(
        self, agents: AgentState, observation: ArrayLike
    ) -> jax.stages.Lowered:
        """The program of `act`, not compiled yet; compiling it serves `act` as well."""
        reset = np.zeros((self.num_members, self.num_envs), bool)
        keys = self._keys, np.int32(Purpose.ACT), np.int32(0)
        seen = observation, self.cold_start(), reset, self.no_fault()
        return self._act.lower(
            agents, *self.placement.put(seen), self.hypers, *keys, explore=True
        )

    def lower_update(
        self, agents: AgentState, replay: Replay, num_updates: int
    ) -> jax.stages.Lowered:
        """The program of `update`, not compiled yet; see `lower_act`."""
        fault = self.placement.put(self.no_fault())
        return self._update.lower(
            agents, replay, fault, self.hypers, self._keys, np.int32(0), np.bool_(0),
            num_updates=num_updates, learn_policy=True,
        )  # fmt: skip

    # --- Members ----------------------------------------------------------------------

    def no_fault(self) -> np.ndarray:
        """No member is frozen, [P]."""
        return np.zeros(self.num_members, np.int32)

    def _no_fault_unless(self, fault: ArrayLike | None) -> ArrayLike:
        return self.no_fault() if fault is None else fault

    def _keys_for(
        self, keys: Key[Array, "P"], purpose: Any, count: Any
    ) -> Key[Array, "P"]:
        return jax.vmap(
            lambda key: jax.random.fold_in(jax.random.fold_in(key, purpose), count)
        )(keys)

    def fetch(self, decision: Decision) -> tuple[np.ndarray, np.ndarray]:
        """Actions [P, E, A] and faults [P] on the host, in one transfer each."""
        packed = np.asarray(decision.for_host)
        action = packed[:, :-1].reshape(decision.action.shape)
        return action, packed[:, -1].astype(np.int32)

    def seen(self, step: Any) -> Seen:
        """What a pool of P · E environments answered, by member, on their devices.

        In one transfer each: on an accelerator one costs more than what it carries.
        """
        fields = (step.observation, step.reset_observation)
        fields += (step.reward, step.terminated, step.acted, step.begun)
        shape = (self.num_members, self.num_envs, -1)
        rows = [np.asarray(x, np.float32).reshape(shape) for x in fields]
        return self._unpack(self.placement.put(np.concatenate(rows, axis=-1)))

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


def _pack(action: Float[Array, "P E A"], fault: Int[Array, "P"]) -> Float[Array, "P _"]:
    flat = action.reshape(len(action), -1)
    return jnp.concatenate([flat, fault[:, None].astype(flat.dtype)], axis=1)


def describe_fault(code: int) -> str:
    """What was not finite when a member was frozen."""
    names = (*WATCHED, "another metric", "an action")
    return f"{names[code - 1]} was NaN or infinite"


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


def member(population: Any, index: int) -> Any:
    """One member of anything that has P as its first axis."""
    return jax.tree.map(lambda x: x[index], population)


def _stack(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *parts)
