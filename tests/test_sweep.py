"""Several values for one option: how they are given, and what they become."""

import pytest

from planprior import settings, sweep
from planprior.commands.splitting import split_settings
from planprior.commands.train import NAMES
from planprior.experiment import TrainConfig, differences, resolve, to_json
from planprior.spec import EnvSpec

SPEC = EnvSpec("toy:x", 3, 2, 100, action_repeat=2)


def decide(**change):
    return resolve(TrainConfig(task="x", **change), SPEC, accelerator=False)


@pytest.mark.parametrize(
    ("arguments", "rest", "found"),
    [
        (["x", "--seeds", "0-4"], ["x", "--seeds", "0-4"], {}),
        (["--seeds", "0", "3", "7", "x"], ["--seeds", "0,3,7", "x"], {}),
        (["x", "seeds=0-2,5"], ["x", "--seeds", "0-2,5"], {}),
        (
            ["x", "--prior-weight", "0", "0.5", ".9", "--seed", "1"],
            ["x", "--prior-weight", "0,0.5,.9", "--seed", "1"],
            {},
        ),
        (["--lambda", "1", "inf", "x"], ["--lambda", "1,inf", "x"], {}),
        (["--entropy-coef", "0", "1e-4", "x"], ["x"], {"entropy_coef": "0,1e-4"}),
        (["x", "temperature=0.5,1.0"], ["x"], {"temperature": "0.5,1.0"}),
        (["--prior", "plans", "x"], ["x"], {"prior.kind": "plans"}),
    ],
)
def test_values_that_follow_an_option_belong_to_it(arguments, rest, found):
    assert split_settings(arguments, NAMES) == (rest, found)


def test_seeds_may_be_ranges():
    assert sweep.parse_seeds("0-4,7") == (0, 1, 2, 3, 4, 7)
    for text in ("4-0", "1.5", "a", "", "-1", "0,,1"):
        with pytest.raises(ValueError, match="must be whole numbers or ranges of them"):
            sweep.parse_seeds(text)
    with pytest.raises(ValueError, match="prior_weight is '0,x'; it must be a number"):
        sweep.parse_numbers("prior_weight", "0,x")


def test_members_are_the_product_of_all_values():
    made = decide(
        seeds=(3, 4), prior_weight=(0.0, 1.0), settings={"entropy_coef": "0,1e-4"}
    )
    assert [(m.seed, m.hypers.prior_weight, m.hypers.entropy_coef)
            for m in made.members] == [
        (3, 0.0, 0.0), (4, 0.0, 0.0), (3, 0.0, 1e-4), (4, 0.0, 1e-4),
        (3, 1.0, 0.0), (4, 1.0, 0.0), (3, 1.0, 1e-4), (4, 1.0, 1e-4),
    ]  # fmt: skip
    assert made.members[5].columns() == {
        "seed": 4, "prior_weight": 1.0, "entropy_coef": 0.0
    }  # fmt: skip
    assert made.members[5].describe() == "seed 4, prior weight 1, entropy coef 0"
    assert to_json(made)["members"][5] == made.members[5].columns()
    # No environment is needed to know how many there are.
    assert len(TrainConfig(task="x", seeds=(0, 1), lam=(0.0, 9.0)).choices()) == 4


def test_lambda_may_be_infinite_beside_finite_ones():
    made = decide(lam=(0.0, 1.0, float("inf")))
    assert [m.hypers.prior_weight for m in made.members] == [0.0, 0.5, 1.0]


def test_a_sweep_of_one_is_none():
    assert TrainConfig(task="x", seeds=(3,)) == TrainConfig(task="x", seed=3)
    one = TrainConfig(task="x", prior_weight=(0.5,), settings={"temperature": (1.0,)})
    made = resolve(one, SPEC, accelerator=False)
    assert len(made.members) == 1 and made.members[0].swept == ()
    assert made.train.prior_weight == 0.5


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "x-pompc-tiny-seed0"),
        ({"seed": 3, "prior_weight": 0.5}, "x-pompc-w0.5-tiny-seed3"),
        ({"seeds": (0, 1, 2)}, "x-pompc-tiny-seeds0-2"),
        ({"seeds": (0, 3, 7)}, "x-pompc-tiny-seeds0_3_7"),
        (
            {"seeds": (0, 1), "prior_weight": (0.0, 0.5, 0.9)},
            "x-pompc-w0_0.5_0.9-tiny-seeds0-1",
        ),
        (
            {"settings": {"temperature": (0.5, 1.0)}, "lam": (0.0, float("inf"))},
            "x-pompc-w0_1-temperature0.5_1-tiny-seed0",
        ),
        (
            {"prior_weight": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)},
            "x-pompc-w0_to_0.5_x6-tiny-seed0",
        ),
    ],
)
def test_the_folder_is_named_after_the_sweep(change, name):
    assert str(decide(**change).run_dir) == f"runs/{name}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\); it must be values that all differ"),
        ({"seeds": (0, -1)}, r"seeds is \(0, -1\); it must be whole numbers"),
        ({"seeds": (0, 1), "seed": 2}, "seed is 2; it must be left out beside seeds"),
        ({"prior_weight": ()}, r"prior_weight is \(\); it must be a value, or several"),
        (
            {"prior_weight": (0.0, 0.5), "method": "tdmpc2"},
            "prior_weight is 0.5; it must be 0 when prior.kind is 'none'",
        ),
        (
            {"prior_weight": (0.5, 1.0), "method": "tdmpc_square"},
            "prior_weight is 1.0; it must be below 1 here",
        ),
        ({"lam": (1.0, -1.0)}, r"TrainConfig\.lam is -1\.0; it must be at least 0"),
        ({"settings": {"temperature": "1,-1"}}, r"temperature is -1.0; it must be in"),
        (
            {"settings": {"horizon": "3,5"}},
            "horizon is '3,5', but all agents of a population share it",
        ),
        ({"settings": {"prior": "plans,learned"}}, "share it; it must be one value"),
        ({"settings": {"temperature": "1,1"}}, "temperature is .*; .* all differ"),
    ],
)
def test_an_impossible_sweep_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as error:
        decide(**change)
    assert "\n" not in str(error.value)


def test_another_sweep_is_another_configuration():
    def stored(**change):
        return to_json(decide(**change))

    old = stored(seeds=(0, 1), prior_weight=(0.0, 0.5))
    assert differences(old, stored(seeds=(0, 1), prior_weight=(0.0, 0.5))) == []
    told = differences(old, stored(seeds=(0, 1, 2), prior_weight=(0.0, 0.5)))
    assert told == ["train.seeds was (0, 1) and is (0, 1, 2)"]
    told = differences(old, stored(seeds=(0, 1), prior_weight=(0.0, 0.9)))
    assert told == ["train.prior_weight was (0.0, 0.5) and is (0.0, 0.9)"]


def test_only_numbers_of_the_algorithm_can_be_swept():
    swept = {name for name, s in settings.table().items() if s.can_be_swept}
    assert {"learning_rate", "temperature", "entropy_coef", "tau"} <= swept
    assert not swept & {"horizon", "planner.num_samples", "policy.log_std_min"}
