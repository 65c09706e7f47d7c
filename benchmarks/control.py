"""Whether a controller keeps its promises: alone, and while another process works.

    .venv/bin/python benchmarks/control.py RUN --hz 50 --seconds 60

Drives the agent's simulator in real time twice, first alone and then beside processes
that keep every core busy, and prints latencies, missed deadlines, where actions came
from, and the return beside that of the same episodes without clock and delay.
"""

import argparse
import json
import multiprocessing
from contextlib import ExitStack
from pathlib import Path

from planprior import runtime
from planprior.acting import Agent
from planprior.controller import Controller
from planprior.envs.registry import make_env
from planprior.realtime import drive, untimed


def burn() -> None:
    while True:
        sum(range(10_000))


def busy(stack: ExitStack, count: int) -> None:
    # JAX has threads by now, which a fork would not survive.
    context = multiprocessing.get_context("spawn")
    for _ in range(count):
        process = context.Process(target=burn, daemon=True)
        process.start()
        stack.callback(process.kill)


def measure(agent: Agent, options: argparse.Namespace, load: int) -> dict:
    env = make_env(agent.info["task"], options.seed)
    with ExitStack() as stack:
        stack.callback(env.close)
        controller = stack.enter_context(Controller(agent, options.hz))
        busy(stack, load)
        driven = drive(controller, env, seconds=options.seconds, seed=options.seed)
        report = controller.report()
    del report["histogram"]
    return report | {
        "busy_processes": load,
        "lateness_ms": driven.lateness.summary(),
        "returns": driven.returns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--hz", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runtime.configure()
    agent = Agent.load(options.run)
    told = [measure(agent, options, load) for load in (0, runtime.cpu_cores())]
    env = make_env(agent.info["task"], options.seed)
    count = len(told[0]["returns"])
    free = untimed(agent, env, episodes=count, seed=options.seed)
    machine = runtime.describe()
    print(json.dumps({"machine": machine, "runs": told, "untimed": free}, indent=2))


if __name__ == "__main__":
    main()
