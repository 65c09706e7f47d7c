"""From a published checkpoint to an agent: its tensors tell sizes and method."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior import methods
from planprior.actor import Networks, init_networks
from planprior.checked import find
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.importers import layout, torch_file
from planprior.importers.pickle_machine import FileError
from planprior.nets import MLP
from planprior.numerics import TwoHot
from planprior.policies import FAMILIES, Policy
from planprior.spec import EnvSpec
from planprior.world_model import WorldModel

UNKNOWN = "imported"
"""The environment of an agent that came without a task."""

ENSEMBLE, TARGETS = "_Qs.params", "_target_Qs"
DUPLICATES = ("_detach_Qs_params", "_detach_Qs.params", "_detach_Qs")
"""Where files list the heads a second time."""


@dataclass(frozen=True)
class Program:
    """A program whose checkpoints can be imported.

    Attributes:
        methods: The method, by what the value heads see: `q` or `v`.
        where: Its repository.
    """

    methods: Mapping[str, str]
    where: str


PROGRAMS: dict[str, Program] = {
    "tdmpc2": Program({"q": "tdmpc2"}, "nicklashansen/tdmpc2"),
    "bmpc": Program({"v": "bmpc", "q": "bmpc_q"}, "wertyuilife2/bmpc"),
    "tdmpc_square": Program({"q": "tdmpc_square"}, "DarthUtopian/tdmpc_square_public"),
}


class Report(NamedTuple):
    """What became of every entry of a file.

    Attributes:
        used: Tensors that the agent has.
        repeated: Tensors that are the heads once more, and equal them.
        skipped: Entries that hold no numbers.
        sha256: Of the file.
    """

    used: list[str]
    repeated: list[str]
    skipped: list[str]
    sha256: str


class Published(NamedTuple):
    """A published agent.

    Attributes:
        method: Its method.
        size: The name of its size, or `custom`.
        spec: Its environment, as far as it is known.
        config: Its settings; what no file tells is the method's default.
        hypers: Its numbers.
        networks: What acts.
        target_heads: The slow copy of the value heads.
        report: What was used.
    """

    method: str
    size: str
    spec: EnvSpec
    config: Config
    hypers: Hypers
    networks: Networks
    target_heads: MLP
    report: Report


class _Ledger(Mapping[str, np.ndarray]):
    """Tensors by today's names; notes which have been used."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = layout.modern(tensors)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.tensors[name]
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise FileError(f"has NaN or infinity in {name}")
        self.used.add(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which does not count as a use."""
        return self.tensors[name].shape


def read(
    path: str | Path,
    program: str,
    spec: EnvSpec | None = None,
    *,
    episode_length: int = 500,
) -> Published:
    """Read a published agent; nothing in the file is run, and PyTorch is not needed.

    Args:
        path: A file of `torch.save`.
        program: A name in `PROGRAMS`: which program wrote it.
        spec: The environment; its sizes must be the file's. Without one, they are
            taken from the file.
        episode_length: Decisions of an episode where there is no `spec`: the discount
            follows from it.

    Raises:
        FileError: It cannot be read, is of another kind, or does not fit.
    """
    known = find(PROGRAMS, program, "program")
    tensors, skipped = torch_file.read(path)
    try:
        return _agent(_Ledger(tensors), skipped, path, known, spec, episode_length)
    except FileError as error:
        raise FileError(f"{path} {error}") from None
    except KeyError as error:
        raise FileError(
            f"{path} has no tensor {error}, which agents of {known.where} have"
        ) from None


def _agent(
    ledger: _Ledger,
    skipped: list[str],
    path: str | Path,
    program: Program,
    spec: EnvSpec | None,
    episode_length: int,
) -> Published:
    _refuse_other_kinds(ledger)
    sizes = _Sizes.of(ledger)
    spec = spec or EnvSpec(UNKNOWN, sizes.observation, sizes.action, episode_length)
    _check_spec(spec, sizes)
    kind = "q" if sizes.head_inputs > sizes.latent else "v"
    if kind not in program.methods:
        raise FileError(
            f"has value heads of the state alone, which {program.where} does not write"
        )
    method = program.methods[kind]
    config = _with_ranges(_with_sizes(methods.METHODS[method].config, sizes), ledger)
    wanted = jax.eval_shape(lambda: init_networks(spec, config, key=jax.random.key(0)))
    networks, target_heads = _build(ledger, config, wanted)
    _check_shapes(networks, target_heads, wanted)
    report = _report(ledger, skipped, Path(path))
    hypers = methods.METHODS[method].hypers_for(spec).validate(config)
    size = _size_name(method, config)
    return Published(method, size, spec, config, hypers, networks, target_heads, report)


def _refuse_other_kinds(ledger: _Ledger) -> None:
    if any(name.startswith(("_task_emb", "_action_masks")) for name in ledger):
        raise FileError(
            "is a multi-task agent, whose networks read the embedding of a task that "
            "no environment here provides; only single-task agents can be imported"
        )
    if any(name.startswith("_encoder.rgb") for name in ledger):
        raise FileError("reads pictures; only agents that read vectors can be imported")


class _Sizes(NamedTuple):
    """What shapes tell."""

    observation: int
    action: int
    latent: int
    encoder: int
    encoder_layers: int
    mlp: int
    bins: int
    heads: int
    head_inputs: int
    ends: bool

    @classmethod
    def of(cls, ledger: _Ledger) -> "_Sizes":
        def shape(name: str, axes: int = 2) -> tuple[int, ...]:
            found = ledger.shape(f"{name}.weight")
            if len(found) != axes or 0 in found:
                raise FileError(f"has a tensor {name}.weight of shape {list(found)}")
            return found

        layers = layout.depth(ledger, "_encoder.state")
        encoder, observation = shape("_encoder.state.0")
        last = layout.depth(ledger, "_pi") - 1
        heads, _, inputs = shape(f"{ENSEMBLE}.0", 3)
        return cls(
            observation=observation,
            action=shape(f"_pi.{last}")[0] // 2,
            latent=shape(f"_encoder.state.{layers - 1}")[0],
            encoder=encoder,
            encoder_layers=layers,
            mlp=shape("_dynamics.0")[0],
            bins=shape(f"_reward.{layout.depth(ledger, '_reward') - 1}")[0],
            heads=heads,
            head_inputs=inputs,
            ends="_termination.0.weight" in ledger,
        )


def _check_spec(spec: EnvSpec, sizes: _Sizes) -> None:
    for what, file, task in (
        ("observations", sizes.observation, spec.observation_dim),
        ("actions", sizes.action, spec.action_dim),
    ):
        if file != task:
            raise FileError(f"has {file} {what}; {spec.name} has {task}")


def _with_sizes(config: Config, sizes: _Sizes) -> Config:
    try:
        network = dataclasses.replace(
            config.network,
            encoder_dim=sizes.encoder,
            encoder_layers=sizes.encoder_layers,
            mlp_dim=sizes.mlp,
            latent_dim=sizes.latent,
            num_bins=sizes.bins,
        )
    except ValueError as error:
        raise FileError(f"has sizes that no agent has: {error}") from None
    return dataclasses.replace(
        config,
        network=network,
        critic=dataclasses.replace(config.critic, num_heads=sizes.heads),
        terminations="learned" if sizes.ends else config.terminations,
    )


def _with_ranges(config: Config, ledger: _Ledger) -> Config:
    """The ranges of log σ, which files hold since 2024."""
    for part, prefix in (("policy", ""), ("reanalysis", "expl_")):
        if f"{prefix}log_std_min" not in ledger or (prefix and not _explores(config)):
            continue
        low, width = (
            float(np.asarray(ledger[f"{prefix}log_std_{end}"]).reshape(()))
            for end in ("min", "dif")
        )
        values = {"log_std_min": low, "log_std_max": low + width}
        part_config = dataclasses.replace(getattr(config, part), **values)
        config = dataclasses.replace(config, **{part: part_config})
    return config


def _explores(config: Config) -> bool:
    return config.reanalysis.interval > 0


def _build(ledger: _Ledger, config: Config, wanted: Networks) -> tuple[Networks, MLP]:
    network, pi = config.network, config.policy
    family = FAMILIES[pi.family](pi.log_std_min, pi.log_std_max)
    ends = config.terminations == "learned"
    model = WorldModel(
        encoder=layout.simplex(ledger, "_encoder.state", network.simnorm_dim),
        dynamics=layout.simplex(ledger, "_dynamics", network.simnorm_dim),
        reward_head=layout.mlp(ledger, "_reward"),
        value_heads=layout.mlp(ledger, ENSEMBLE),
        termination_head=layout.mlp(ledger, "_termination") if ends else None,
        bins=TwoHot(network.num_bins, network.symlog_min, network.symlog_max),
        action_values=config.critic.kind == "q",
    )
    # No published method has a prior with numbers of its own.
    policy = Policy(layout.mlp(ledger, "_pi"), family)
    return Networks(model, policy, wanted.prior), layout.mlp(ledger, TARGETS)


def _check_shapes(networks: Networks, target_heads: MLP, wanted: Networks) -> None:
    pairs = ((networks, wanted), (target_heads, wanted.model.value_heads))
    for found, like in pairs:
        if jax.tree.structure(found) != jax.tree.structure(like):
            raise FileError("has networks of another depth than agents have here")
        leaves = jax.tree_util.tree_leaves_with_path(found)
        for (keys, leaf), expected in zip(leaves, jax.tree.leaves(like), strict=True):
            if leaf.shape != expected.shape:
                name = jax.tree_util.keystr(keys, simple=True, separator="/")
                raise FileError(
                    f"has a tensor for {name} of shape {list(leaf.shape)}, where its "
                    f"other tensors need {list(expected.shape)}"
                )


def _report(ledger: _Ledger, skipped: list[str], path: Path) -> Report:
    """Account for every tensor.

    Raises:
        FileError: A tensor is of no use here, or a copy of the heads is none.
    """
    repeated, left = [], []
    for name in ledger:
        original = _original(name)
        if original is None:
            if name not in ledger.used:
                left.append(name)
            continue
        if original not in ledger or not np.array_equal(ledger[original], ledger[name]):
            raise FileError(f"has a copy {name} of the heads that differs from them")
        repeated.append(name)
    if left:
        raise FileError(f"has tensors that are of no use here: {', '.join(left)[:300]}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    used = sorted(ledger.used - set(repeated))
    return Report(used, repeated, skipped, digest)


def _original(name: str) -> str | None:
    for prefix in DUPLICATES:
        if name.startswith(f"{prefix}."):
            return f"{ENSEMBLE}.{name.removeprefix(prefix + '.')}"
    return None


def _size_name(method: str, config: Config) -> str:
    own_heads = methods.METHODS[method].own_heads
    for name, size in methods.SIZES.items():
        if methods.at_size(config, size, own_heads).critic == config.critic and (
            config.network == size.network
        ):
            return name
    return "custom"


def describe(published: Published, path: str | Path, program: str) -> dict[str, Any]:
    """What the agent's folder says of where it comes from."""
    return {
        "task": None if published.spec.name == UNKNOWN else published.spec.name,
        "method": published.method,
        "size": published.size,
        "source": {
            "program": PROGRAMS[program].where,
            "file": Path(path).name,
            "sha256": published.report.sha256,
        },
    }
