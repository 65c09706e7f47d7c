"""Members on several devices: four of a CPU's, in one process for all questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import planprior
from planprior.placement import Placement


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    here, source = Path(__file__).parent, Path(planprior.__file__).parents[1]
    folder = tmp_path_factory.mktemp("spread") / "run"
    done = subprocess.run(
        [sys.executable, str(here / "spread.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(source)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_array_lies_in_equal_parts_on_all_devices(found):
    assert found["devices"][0] == [4]
    assert found["still_on"] == [4]


def test_results_are_those_of_one_device(found):
    assert found["learned"] < 2e-5


def test_a_training_goes_on_with_another_number_of_devices(found):
    assert found["devices"][1:] == [[1], [2]]
    assert found["lost"] == 0
    assert found["gone_on"] < 2e-4


def test_one_program_each(found):
    assert found["programs"] == [1, 1, 1]


def test_all_members_stop_where_an_environment_of_one_breaks(found):
    decisions, rows = found["broken"]
    assert decisions == [5] * 4
    assert len(set(rows)) == 1


def test_what_is_said_of_devices(found):
    assert found["said"] == [
        "1 member on 1 of 4 devices, 1 on each: 4 would not share 1 equally",
        "6 members on 3 of 4 devices, 2 on each: 4 would not share 6 equally",
        "8 members on 4 devices, 2 on each",
    ]


def test_one_device_leaves_everything_where_it_is():
    alone = Placement(3)
    assert alone.sharding is None and alone.members_each == 3
    assert alone.available == 1
    tree = {"x": [1, 2, 3]}
    assert alone.put(tree) is tree
