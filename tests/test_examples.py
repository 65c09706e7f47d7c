"""The examples run as their texts say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from test_cli import run
from toys import TINY

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def commands(path: Path) -> list[list[str]]:
    """The lines that call planprior, as words."""
    return [
        line.split("#")[0].split()[1:]
        for line in path.read_text().splitlines()
        if re.match(r"\s*planprior \w", line)
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium") is None, reason="gymnasium is not installed"
)
def test_ones_own_environment(tmp_path, monkeypatch, capsys):
    check, train = commands(EXAMPLES / "own_environment.py")
    documented = commands(ROOT / "docs" / "environments.md")
    assert check in documented and train in documented
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(monkeypatch, capsys, *check, "--steps", 500, "--json")
    told = json.loads(out)
    assert status == 0 and told["broken"] == 0
    assert told["spec"]["can_terminate"] and told["spec"]["episode_length"] == 100
    # The same training, of a smaller agent and cut short.
    small = [f"{name}={value}" for name, value in TINY.items()]
    train[train.index("--steps") + 1] = "120"
    sizes = ["--seed-steps", 100, "--eval-every", 120, "--eval-episodes", 1]
    fewer_programs = ["policy.learn_in_pretraining=true", "reanalysis.interval=0"]
    status, out, err = run(monkeypatch, capsys, *train, *sizes, *small, *fewer_programs)
    assert status == 0, err
    evaluate = next(words for words in documented if words[0] == "eval")
    assert Path(evaluate[1]).is_dir()
    status, out, _ = run(monkeypatch, capsys, *evaluate, "--episodes", 1, "--json")
    assert status == 0 and json.loads(out)["task"] == "own_environment:make_env"
