import dataclasses
import json
import subprocess
import sys

import pytest

from planprior import methods, settings
from planprior.commands.splitting import spell_switches, split_settings
from planprior.commands.train import NAMES
from planprior.config import Config
from planprior.experiment import TrainConfig, differences, resolve, to_json
from planprior.hypers import Hypers
from planprior.spec import EnvSpec

SPEC = EnvSpec("toy:x", 3, 2, 100, action_repeat=2)


def test_every_field_is_a_setting_with_a_meaning():
    table = settings.table()
    for part in dataclasses.fields(Config):
        value = getattr(Config(), part.name)
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                assert f"{part.name}.{field.name}" in table
        else:
            assert part.name in table
    numbers = {field.name for field in dataclasses.fields(Hypers)} - {"prior_weight"}
    assert numbers <= set(table)
    assert all(len(setting.help) > 5 for setting in table.values())


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("horizon", "horizon"),
        ("planner.num-samples", "planner.num_samples"),
        ("num_elites", "planner.num_elites"),
        ("num_pi_trajs", "planner.num_policy_trajectories"),
        ("num_samples", "planner.num_samples"),
        ("iterations", "planner.iterations"),
        ("temperature", "temperature"),
        ("batch_size", "batch_size"),
        ("lr", "learning_rate"),
        ("num_q", "critic.num_heads"),
        ("log_std_min", "policy.log_std_min"),
        ("prior", "prior.kind"),
    ],
)
def test_a_setting_has_several_names(name, full):
    assert settings.find(name).name == full


@pytest.mark.parametrize("name", list(settings.TDMPC2_NAMES))
def test_tdmpc2_names_lead_to_settings(name):
    assert settings.find(name).name in settings.table()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_sample": 3},
            "setting 'num_sample' is unknown; did you mean 'num_samples'",
        ),
        ({"learn_rate": 3}, "did you mean 'learning_rate'"),
        ({"planner.horizon": 3}, "unknown; did you mean 'horizon'?"),
        ({"planner.lr": 3}, "unknown; did you mean 'learning_rate'?"),
        ({"x.kind": 3}, "unknown; did you mean 'critic.kind' or 'prior.kind'?"),
        ({"num_slices": 1, "reanalysis.num_slices": 2}, "given twice"),
        ({"kind": "q"}, "setting 'kind' is ambiguous; it must be critic.kind or prior"),
        ({"horizon": "three"}, "horizon is 'three'; it must be a whole number"),
        ({"horizon": 2.5}, "horizon is 2.5; it must be a whole number"),
        ({"reanalysis": "inf"}, "interval is 'inf'; it must be a whole number"),
        ({"batch_size": "1e400"}, "batch_size is '1e400'; it must be a whole number"),
        ({"lr": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"prior.adaptive": "maybe"}, "adaptive is 'maybe'; it must be true or false"),
        ({"critic": "vv"}, "critic.kind is 'vv'; it must be one of q, v"),
    ],
)
def test_a_wrong_setting_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as error:
        settings.parse(given)
    assert "\n" not in str(error.value)


def test_settings_are_applied_together_and_checked_as_a_whole():
    config, hypers = methods.make("pompc", SPEC, "tiny")
    changes = settings.parse(
        {"num_elites": "200", "num_samples": "400", "lr": "1e-3", "horizon": "5"}
    )
    config, hypers = settings.apply(config, hypers, changes)
    assert (config.planner.num_samples, config.planner.num_elites) == (400, 200)
    assert (config.horizon, hypers.learning_rate) == (5, 1e-3)
    with pytest.raises(ValueError, match="num_elites is 900; it must be at most"):
        settings.apply(config, hypers, {"planner.num_elites": 900})
    with pytest.raises(ValueError, match=r"in \[0\.0, 1\.0\]"):
        settings.apply(config, hypers, {"learning_rate": 7.0})


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_a_config_survives_json(method):
    config, _ = methods.make(method, SPEC, "small")
    assert settings.config_from_json(settings.config_to_json(config)) == config


def test_a_foreign_config_is_refused():
    stored = settings.config_to_json(Config())
    with pytest.raises(ValueError, match="has no 'horizon'"):
        settings.config_from_json({k: v for k, v in stored.items() if k != "horizon"})
    stored["planner"]["magic"] = 1
    with pytest.raises(ValueError, match="PlannerConfig has other fields: magic"):
        settings.config_from_json(stored)


@pytest.mark.parametrize(
    ("arguments", "rest", "found"),
    [
        (["walker-walk", "--seed", "3"], ["walker-walk", "--seed", "3"], {}),
        (["task=dog-run", "steps=100"], ["dog-run", "--steps", "100"], {}),
        (["--task", "dog-run", "--seed", "3"], ["dog-run", "--seed", "3"], {}),
        (["gym:X-v1,action_repeat=2"], ["gym:X-v1,action_repeat=2"], {}),
        (["X-v1,terminates=no", "rho=0.6"], ["X-v1,terminates=no"], {"rho": "0.6"}),
        (["my:Env,episode_length=500"], ["my:Env,episode_length=500"], {}),
        (["task=gym:X,success=yes"], ["gym:X,success=yes"], {}),
        (["x", "model_size=5"], ["x", "--size", "5"], {}),
        (["x", "--eval-freq=5"], ["x", "--eval-every", "5"], {}),
        (["x", "--lambda", "2"], ["x", "--lambda", "2"], {}),
        (["x", "--no-overlap"], ["x", "--no-overlap"], {}),
        (["--run-dir", "lr=1", "x"], ["--run-dir", "lr=1", "x"], {}),
        (["--overlap", "rho=0.6"], ["--overlap"], {"rho": "0.6"}),
        (["--horizon", "5", "x"], ["x"], {"horizon": "5"}),
        (["x", "num_samples=64"], ["x"], {"planner.num_samples": "64"}),
        (
            ["x", "--planner.num-samples", "64"],
            ["x"],
            {"planner.num_samples": "64"},
        ),
        (["x", "--prior.adaptive", "--seed", "1"], ["x", "--seed", "1"],
         {"prior.adaptive": True}),
        (["x", "--symlog-min", "-5"], ["x"], {"network.symlog_min": "-5"}),
        (["x", "--lr", "0", "nan", "-inf"], ["x"], {"learning_rate": "0,nan,-inf"}),
    ],
)  # fmt: skip
def test_the_command_line_is_split(arguments, rest, found):
    assert split_settings(arguments, NAMES, {"overlap"}) == (rest, found)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["x", "overlap=False"], ["x", "--no-overlap"]),
        (["--overlap=true", "x"], ["--overlap", "x"]),
        (["--no-overlap=TRUE"], ["--no-overlap"]),
        (["--no-overlap=no"], ["--overlap"]),
        (["--overlap", "False", "x"], ["--no-overlap", "x"]),
        (["--overlap", "x"], ["--overlap", "x"]),
        (["--no-overlap", "x", "seed=1"], ["--no-overlap", "x", "seed=1"]),
    ],
)
def test_switches_may_have_a_value(arguments, written):
    assert spell_switches(arguments, {"overlap"}, undashed=True) == written


def test_a_word_is_a_switch_only_where_settings_are_taken():
    assert spell_switches(["json=x"], {"json"}, undashed=False) == ["json=x"]
    with pytest.raises(ValueError, match=r"overlap is ''; it is a switch: --overlap"):
        spell_switches(["--overlap="], {"overlap"}, undashed=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--horizn", "5"], "setting 'horizn' is unknown; did you mean 'horizon'"),
        (["x", "--methd", "5"], "did you mean 'method'"),
        (["x", "--horizon"], "setting 'horizon' has no value"),
        (["x", "horizon=1", "--horizon", "2"], "setting 'horizon' is given twice"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_settings(arguments, NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "TrainConfig.steps is 0; it must be at least 1"),
        ({"seed": -1}, r"TrainConfig.seed is -1; it must be in \[0, 2\^32 - 1\]"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"eval_every": 0}, "eval_every is 0; it must be at least 1"),
        ({"updates_per_step": 0.0}, "updates_per_step is 0.0; it must be in"),
        ({"workers": "-1"}, "workers is '-1'; it must be 'auto' or a whole number"),
        ({"workers": -1}, "workers is -1; it must be 'auto' or a whole number"),
        ({"workers": "two"}, "workers is 'two'; it must be 'auto' or a whole number"),
        ({"lam": 1.0, "prior_weight": 0.5}, "left out beside prior_weight"),
        ({"init_from": ""}, "init_from is ''; it must be a folder, or left out"),
    ],
)
def test_a_wrong_training_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(task="x", **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "pomp"}, "method is 'pomp'.*did you mean 'pompc'"),
        ({"size": "smal"}, "size is 'smal'.*of auto, tiny, .*did you mean 'small'"),
        (
            {"method": "tdmpc2", "prior_weight": 0.5},
            "prior_weight is 0.5; it must be 0",
        ),
        ({"prior_weight": 1.5}, "prior_weight is 1.5; it must be in"),
        ({"lam": -1.0}, r"TrainConfig\.lam is -1\.0; it must be at least 0"),
        ({"settings": {"seeds": "prior"}, "method": "tdmpc2"}, "cannot propose"),
        (
            {"settings": {"reanalysis": 10}, "method": "tdmpc2"},
            r"ReanalysisConfig\.interval is 10; it must be 0 when prior\.kind is",
        ),
        (
            {"settings": {"gate": (0.0, 1.0)}},
            r"gate has several values, but nothing reads it.*scale must be 'value'",
        ),
        (
            {"settings": {"dual_learning_rate": (0.1, 0.2)}},
            r"dual_learning_rate has several values.*PriorConfig.adaptive must be on",
        ),
    ],
)
def test_an_impossible_agent_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        resolve(TrainConfig(task="x", **change), SPEC, accelerator=False)


@pytest.mark.parametrize("given", [2, "2"])
def test_workers_are_a_number_or_a_text(given):
    assert TrainConfig(task="x", workers=given).workers == 2


WORKERS = "it must be 'auto' or a whole number of at least 0"
WRONG = [
    ({"workers": 1.5}, "workers is 1.5; " + WORKERS),
    ({"workers": True}, "workers is True; " + WORKERS),
    ({"seed_steps": "x"}, "seed_steps is 'x'; it must be a whole number"),
    ({"eval_every": 2.5}, "eval_every is 2.5; it must be a whole number"),
    ({"init_from": 3}, "init_from is 3; it must be a text"),
    ({"pool": "x"}, "pool is 'x'; it must be one of 'envpool'"),
    ({"steps": 2**31}, f"steps is {2**31}; it must be at most {2**31 - 1}"),
    (
        {"prior_weight": 10**400},
        f"prior_weight is {10**400}; it must be a number, or several",
    ),
    ({"prior_weight": True}, "prior_weight is True; it must be a number, or several"),
    ({"lam": (1.0, "x")}, "lam is (1.0, 'x'); it must be a number, or several"),
    ({"settings": None}, "settings is None; it must be values by name"),
]


def test_fields_that_may_be_left_out_are_checked_too():
    """In a process of its own: here types of arguments are checked before."""
    code = f"""
from planprior.experiment import TrainConfig
for change, _ in {WRONG!r}:
    try:
        TrainConfig(task="x", **change)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"TrainConfig.{told}" for _, told in WRONG]


def test_the_end_is_a_whole_number_of_decisions():
    train = TrainConfig(task="x", steps=9, num_envs=3)
    made = resolve(train, SPEC, accelerator=False)
    assert made.decisions == 2 and made.last_step == 12


def test_numbers_that_are_read_can_be_swept():
    numbers = {"divergence_target": (0.1, 0.2), "dual_learning_rate": (0.1, 0.2)}
    train = TrainConfig(task="x", method="pompc_adaptive", settings=numbers)
    assert len(resolve(train, SPEC, accelerator=False).members) == 4
    numbers = {"gate": (0.0, 1.0), "prior.scale": "value", "terminations": "learned"}
    numbers |= {"termination_coef": (0.5, 1.0)}
    train = TrainConfig(task="x", settings=numbers)
    assert len(resolve(train, SPEC, accelerator=False).members) == 4


def test_of_many_environments_each_comes_as_far_as_a_slice():
    def made(num_envs):
        train = TrainConfig(task="x", num_envs=num_envs)
        return resolve(train, SPEC, accelerator=False).seed_decisions

    assert made(333) == 1000 and made(334) == 1002 and made(2048) == 3 * 2048


def test_what_is_left_open_is_decided():
    made = resolve(TrainConfig(task="x", lam=1.0), SPEC, accelerator=False)
    assert made.size == "tiny"
    assert made.hypers.prior_weight == 0.5
    assert made.seed_decisions == 1000  # max(1000, 5 · 100)
    assert made.eval_every == 10_000
    assert made.capacity == 50_000 + 500 + 2  # decisions, one more row per episode
    ends = dataclasses.replace(SPEC, can_terminate=True)
    made = resolve(TrainConfig(task="x"), ends, accelerator=False)
    # Episodes may be of one decision, whose end is stored for a whole slice.
    assert made.capacity == 50_000 * (1 + made.config.horizon) + 2
    told = {"terminations": "masked"}
    made = resolve(TrainConfig(task="x", settings=told), ends, accelerator=False)
    assert made.capacity == 50_000 * 2 + 2
    assert resolve(TrainConfig(task="x"), SPEC, accelerator=True).size == "5"


def test_a_suite_proposes_and_the_user_decides():
    proposed = {"terminations": "bootstrap", "rho": 0.7}
    own = {"rho": 0.6, "horizon": 4}

    def made(**settings):
        train = TrainConfig(task="x", settings=settings)
        return resolve(train, SPEC, accelerator=False, proposed=proposed)

    assert made().config.terminations == "bootstrap" and made().hypers.rho == 0.7
    assert made().proposed == proposed
    assert made(**own).hypers.rho == 0.6 and made(**own).config.horizon == 4
    assert made(**own).proposed == {"terminations": "bootstrap"}


def test_only_what_matters_is_a_difference():
    def stored(**change):
        train = TrainConfig(task="x", **change)
        return to_json(resolve(train, SPEC, accelerator=False))

    old = stored()
    assert differences(old, stored(steps=7, save_minutes=1.0, run_dir="y")) == []
    assert differences(old, stored(seed=1)) == ["train.seed was 0 and is 1"]
    changed = differences(old, stored(settings={"num_elites": 7}))
    assert "agent.planner.num_elites was 16 and is 7" in changed


def test_sizes_of_numpy_become_numbers_that_json_holds():
    # Elsewhere: in tests types are checked, and these are none of Python's.
    code = (
        "import dataclasses, json, numpy as np\n"
        "from planprior import EnvSpec\n"
        "spec = EnvSpec('x', np.int64(3), np.prod((2, 1)), np.uint8(5))\n"
        "print(json.dumps(dataclasses.asdict(spec)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert (told["observation_dim"], told["action_dim"]) == (3, 2), done.stderr
    assert told["episode_length"] == 5
