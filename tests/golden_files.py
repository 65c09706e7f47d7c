"""Read golden files: arrays and settings of a published program → planprior's agent.

Sizes, numbers of layers and heads, the kind of critic and the layout of the keys come
from the arrays; the `.json` beside them only says what arrays cannot.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from planprior import agent, methods
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.importers import layout
from planprior.nets import MLP
from planprior.policies import FAMILIES, Policy
from planprior.types import Batch, EnvSpec, Gaussian
from planprior.world_model import WorldModel

FOLDER = Path(os.environ.get("PLANPRIOR_GOLDEN", Path(__file__).parent / "golden"))
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def load(self) -> "Loaded":
        with np.load(self.path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        settings = json.loads(self.path.with_suffix(".json").read_text())
        return Loaded(self.name, arrays, settings)


def find() -> list[Golden]:
    return [Golden(path) for path in sorted(FOLDER.glob("*.npz"))]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Its arrays and settings, and what they mean here."""

    name: str
    arrays: dict[str, np.ndarray]
    settings: dict

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.arrays)

    @property
    def method(self) -> str:
        if self.settings.get("bmpc"):
            return "bmpc" if self.settings["use_v_instead_q"] else "bmpc_q"
        return "tdmpc_square" if "batch/planner_mean" in self else "tdmpc2"

    def parameters(self, when: str) -> Arrays:
        head = f"{when}/"
        arrays = {
            k.removeprefix(head): v
            for k, v in self.arrays.items()
            if k.startswith(head)
        }
        return layout.modern(arrays)

    def model(self, when: str = "params") -> WorldModel:
        arrays, settings = self.parameters(when), self.settings
        group, q = settings["simnorm_dim"], layout.mlp(arrays, "_Qs.params")
        latent = arrays["_dynamics.0.weight"].shape[1] - self["batch/action"].shape[-1]
        ends = "_termination.0.weight" in arrays
        return WorldModel(
            encoder=layout.simplex(arrays, "_encoder.state", group),
            dynamics=layout.simplex(arrays, "_dynamics", group),
            reward_head=layout.mlp(arrays, "_reward"),
            value_heads=q,
            termination_head=layout.mlp(arrays, "_termination") if ends else None,
            bins=self.bins,
            action_values=q.hidden[0].linear.weight.shape[-2] > latent,
        )

    @property
    def bins(self):
        from planprior.numerics import TwoHot

        s = self.settings
        return TwoHot(s["num_bins"], float(s["vmin"]), float(s["vmax"]))

    def target_heads(self, when: str = "params") -> MLP:
        return layout.mlp(self.parameters(when), "_target_Qs")

    def policy(self, when: str = "params") -> Policy:
        bounds = (self.settings["log_std_min"], self.settings["log_std_max"])
        family = FAMILIES[self.config().policy.family](*map(float, bounds))
        return Policy(layout.mlp(self.parameters(when), "_pi"), family)

    def spec(self) -> EnvSpec:
        observation, action = self["batch/obs"], self["batch/action"]
        length = self.settings["episode_length"]
        return EnvSpec("golden", observation.shape[-1], action.shape[-1], length)

    def config(self) -> Config:
        """The method's settings with the file's sizes."""
        s, config = self.settings, methods.METHODS[self.method].config
        horizon, batch = self["batch/action"].shape[:2]
        arrays = self.parameters("params")
        network = dataclasses.replace(
            config.network,
            encoder_dim=len(arrays["_encoder.state.0.bias"]),
            encoder_layers=layout.depth(arrays, "_encoder.state"),
            mlp_dim=len(arrays["_dynamics.0.bias"]),
            latent_dim=self["forward/z"].shape[-1],
            simnorm_dim=s["simnorm_dim"],
            num_bins=s["num_bins"],
            dropout=s["dropout"],
        )
        heads = arrays["_Qs.params.0.weight"].shape[0]
        planner = dataclasses.replace(
            config.planner,
            num_samples=s["num_samples"],
            num_elites=s["num_elites"],
            num_policy_trajectories=s["num_pi_trajs"],
            iterations=self._iterations(),
            extra_iterations=False,
        )
        return dataclasses.replace(
            config,
            network=network,
            critic=dataclasses.replace(config.critic, num_heads=heads),
            planner=planner,
            reanalysis=dataclasses.replace(
                config.reanalysis, num_slices=s["reanalyze_batch_size"]
            ),
            horizon=horizon,
            batch_size=batch,
            terminations="learned" if s["episodic"] else "bootstrap",
        )

    def _iterations(self) -> int:
        noise = self.arrays.get("plan_first/noise")
        return self.settings["iterations"] if noise is None else len(noise)

    def hypers(self) -> Hypers:
        s, spec = self.settings, self.spec()
        hypers = methods.METHODS[self.method].hypers_for(spec)
        return dataclasses.replace(
            hypers,
            discount=float(self["discount"]),
            rho=s["rho"],
            learning_rate=s["lr"],
            encoder_lr_scale=s["enc_lr_scale"],
            max_grad_norm=float(s["grad_clip_norm"]),
            consistency_coef=float(s["consistency_coef"]),
            reward_coef=s["reward_coef"],
            value_coef=s["value_coef"],
            termination_coef=float(s["termination_coef"]),
            tau=s["tau"],
            scale_tau=s["tau"],
            entropy_coef=s["entropy_coef"],
            temperature=s["temperature"],
            min_std=s["min_std"],
            max_std=float(s["max_std"]),
            gate=s["scale_threshold"],
        ).arrays()

    def batch(self) -> Batch:
        action = jnp.asarray(self["batch/action"])
        steps = action.shape[:2]
        has_plan = "batch/planner_mean" in self
        empty = np.zeros(action.shape, np.float32)
        ended = self.arrays.get("batch/terminated", np.zeros((*steps, 1)))
        return Batch(
            observation=jnp.asarray(self["batch/obs"]),
            action=action,
            reward=jnp.asarray(self["batch/reward"][..., 0]),
            terminated=jnp.asarray(ended[..., 0] > 0),
            plan=Gaussian(
                jnp.asarray(self["batch/planner_mean"] if has_plan else empty),
                jnp.asarray(self["batch/planner_std"] if has_plan else empty),
            ),
            has_plan=jnp.full(steps, has_plan),
            plan_age=jnp.zeros(steps),
        )

    def state(self) -> agent.AgentState:
        fresh = agent.init(
            self.spec(), self.config(), self.hypers(), key=jax.random.key(0)
        )
        before = jnp.asarray(self.arrays.get("scale_before", 1.0), jnp.float32)
        return dataclasses.replace(
            fresh,
            model=self.model(),
            target_heads=self.target_heads(),
            policy=self.policy(),
            scales=fresh.scales._replace(value=before),
        )
