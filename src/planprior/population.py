"""Several agents in one program: their keys and numbers, and what can be asked of them.

P members (seed × prior weight) of E environments each, every one with its own replay,
keys, scales and numbers; what is run is in `programs.py`. The axes of every array are
[P, E, …] or [P, …].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from planprior import replay as rows
from planprior.config import Config
from planprior.diagnostics import WATCHED
from planprior.hypers import Hypers
from planprior.programs import (
    Decision,
    MemberMetrics,
    Purpose,
    Seen,
    programs_for,
)
from planprior.replay import Replay
from planprior.spec import EnvSpec
from planprior.state import AgentState


class Population:
    """P members that share a `Config`, and with it their programs.

    Attributes:
        spec: The environments.
        config: Static settings.
        num_members: P.
        num_envs: E.
        capacity: Rows of each member's replay.
        programs: What is compiled; shared by all populations of the same sizes.
        hypers: Traced numbers of every member.
        keys: Where the randomness of each starts.
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
        """Bring members together; nothing is compiled before it is called.

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
        self.programs = programs_for(spec, config, len(seeds), num_envs, num_devices)
        self.placement = placement = self.programs.placement
        self.hypers: Hypers = placement.put(_stack([h.arrays() for h in hypers]))
        self.keys = placement.put(_stack([jax.random.key(seed) for seed in seeds]))

    # --- What there is at the start ---------------------------------------------------

    def init(self) -> AgentState:
        """Fresh agents, [P]."""
        return self.programs.init(self.hypers, self.keys)

    def num_parameters(self) -> int:
        """Parameters that one member learns."""
        state = jax.eval_shape(self.init)
        learned = (state.model, state.policy, state.prior)
        total = sum(leaf.size for leaf in jax.tree.leaves(learned))
        return total // self.num_members

    def init_replay(self, capacity: int | None = None) -> Replay:
        """Empty replays, [P], of the population's capacity or another."""
        return self.programs.init_replay(capacity=capacity or self.capacity)

    def replay_bytes(self) -> int:
        """Bytes that the replays of all members take."""
        sizes = self.programs.replay_sizes(self.capacity)
        return self.num_members * rows.num_bytes(*sizes)

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
        keys = self.keys, np.int32(Purpose.ACT), np.int32(step)
        seen = observation, warm_start, reset, self._no_fault_unless(fault)
        return self.programs.act(
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
        keys = self.keys, np.int32(Purpose.EVALUATE), np.int32(step)
        seen = observation, warm_start, reset, self.no_fault()
        decision, _ = self.programs.act(
            agents, *self.placement.put(seen), self.hypers, *keys, explore=False
        )
        return decision

    def act_without_planning(
        self, agents: AgentState, observation: ArrayLike
    ) -> Float[Array, "P E A"]:
        """Take the bare policies' actions, without noise."""
        return self.programs.act_without_planning(
            agents, self.placement.put(observation)
        )

    def act_randomly(self, step: int) -> Decision:
        """Take uniformly random actions."""
        return self.programs.act_randomly(self.keys, np.int32(step))

    # --- Remembering ------------------------------------------------------------------

    def begin(self, replay: Replay, observation: ArrayLike) -> Replay:
        """Start an episode in every environment."""
        return self.programs.begin(replay, self.placement.put(observation))

    def add(
        self, replay: Replay, decision: Decision, seen: Seen, update_count: int
    ) -> Replay:
        """Store a step, and the first row of the next episode where one began."""
        return self.programs.add(replay, decision, seen, np.int32(update_count))

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
            agents: All members; donated where `Programs.donates`.
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
        return self.programs.update(
            agents, replay, fault, self.hypers, self.keys, np.int32(update_count),
            np.bool_(tell), num_updates=num_updates, learn_policy=learn_policy,
            may_tell=self.programs.may_tell(tell),
        )  # fmt: skip

    def reanalyse(
        self, agents: AgentState, replay: Replay, update_count: int
    ) -> Replay:
        """Plan again at states of the batch that the coming update will draw."""
        return self.programs.reanalyse(
            agents, replay, self.hypers, self.keys, np.int32(update_count)
        )

    # --- Looking at the programs ------------------------------------------------------

    def lower_act(
        self, agents: AgentState, observation: ArrayLike
    ) -> jax.stages.Lowered:
        """The program of `act`, not compiled yet; compiling it serves `act` as well."""
        reset = np.zeros((self.num_members, self.num_envs), bool)
        keys = self.keys, np.int32(Purpose.ACT), np.int32(0)
        seen = observation, self.cold_start(), reset, self.no_fault()
        return self.programs.act.lower(
            agents, *self.placement.put(seen), self.hypers, *keys, explore=True
        )

    def lower_update(
        self, agents: AgentState, replay: Replay, num_updates: int
    ) -> jax.stages.Lowered:
        """The program of `update`, not compiled yet; see `lower_act`."""
        fault = self.placement.put(self.no_fault())
        return self.programs.update.lower(
            agents, replay, fault, self.hypers, self.keys, np.int32(0), np.bool_(0),
            num_updates=num_updates, learn_policy=True,
            may_tell=self.programs.may_tell(False),
        )  # fmt: skip

    # --- Members ----------------------------------------------------------------------

    def no_fault(self) -> np.ndarray:
        """No member is frozen, [P]."""
        return np.zeros(self.num_members, np.int32)

    def _no_fault_unless(self, fault: ArrayLike | None) -> ArrayLike:
        return self.no_fault() if fault is None else fault

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
        return self.programs.unpack(self.placement.put(np.concatenate(rows, axis=-1)))


def describe_fault(code: int) -> str:
    """What was not finite when a member was frozen."""
    names = (*WATCHED, "another metric", "an action")
    return f"{names[code - 1]} was NaN or infinite"


def member(population: Any, index: int) -> Any:
    """One member of anything that has P as its first axis."""
    return jax.tree.map(lambda x: x[index], population)


def _stack(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *parts)
