"""What a machine has for training: one fact a line, with advice where something lacks.

Nothing of JAX runs before `examine` is called; OpenGL is tried in processes of their
own, because a library that fails may take its process with it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from planprior import host, runtime
from planprior.envs import registry

Level = Literal["good", "advice", "broken"]
GL_BACKENDS = ("egl", "osmesa", "glfw")

_PICTURE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/>"
    "</worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().std() > 1, "the picture is empty"
print("drawn")
"""


@dataclass(frozen=True)
class Fact:
    """One fact about the machine.

    Attributes:
        level: `good`, `advice` (something could be better) or `broken`.
        topic: What it is about.
        value: What was found.
        todo: What to do about it, if anything.
    """

    level: Level
    topic: str
    value: str
    todo: str = ""


def examine(gl_timeout: float = 30.0) -> list[Fact]:
    """Examine the machine.

    Args:
        gl_timeout: Seconds that each OpenGL library may take to draw a picture.

    Raises:
        ValueError: That is no number of seconds above 0 and up to an hour.
    """
    if not 0 < gl_timeout <= 3600:
        raise ValueError(
            f"gl_timeout is {gl_timeout}; it must be above 0 and at most 3600"
        )
    return [*_python(), *_jax(), *_memory(), *_suites(), *_rendering(gl_timeout)]


# Python and JAX -----------------------------------------------------------------------


def _python() -> Iterator[Fact]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Fact("good", "Python", f"{version} ({sys.executable})")
    for name, number in runtime.versions().items():
        if number and name in ("planprior", "jax", "numpy", "equinox", "optax"):
            yield Fact("good", name, number)


def _jax() -> Iterator[Fact]:
    try:
        runtime.configure()
        import jax

        devices = jax.devices()
        total = float(jax.numpy.ones(8).sum())
    except Exception as error:
        reason = " ".join(str(error).split())
        yield Fact(
            "broken", "device", f"JAX cannot compute here: {reason}",
            "reinstall it: pip install --upgrade 'planprior' (or 'planprior[cuda]')",
        )  # fmt: skip
        return
    assert total == 8.0
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    told = f"{len(devices)} × {devices[0].platform}: {kinds}"
    if devices[0].platform == "cpu" and _has_nvidia_card():
        yield Fact(
            "advice", "device", f"{told}, although there is an NVIDIA card",
            "pip install 'planprior[cuda]'",
        )  # fmt: skip
    else:
        yield Fact("good", "device", told)
    yield _cpu()
    yield _precision()
    yield _cache()


def _cpu() -> Fact:
    cores, allowed = host.cores(), host.allowed_cores()
    held = f", which may run on {allowed} but has a quota" if cores < allowed else ""
    told = f"{runtime.cpu_model()}, {cores} cores for this process{held}"
    return Fact("good", "CPU", told)


def _precision() -> Fact:
    return Fact(
        "good",
        "precision",
        "matrix products in float32 unless --precision says otherwise "
        f"({', '.join(runtime.PRECISIONS)})",
    )


def _cache() -> Fact:
    import jax

    value: Any = jax.config.jax_compilation_cache_dir  # pyright: ignore
    if not value:
        return Fact(
            "advice", "compile cache", "off", "every start compiles everything anew"
        )
    folder = Path(value)
    # `Path.exists` fails where a folder may not be entered.
    nearest = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not os.access(nearest, os.W_OK):
        return Fact(
            "advice", "compile cache", f"{folder} cannot be written",
            "set JAX_COMPILATION_CACHE_DIR to a folder that can",
        )  # fmt: skip
    files = [p for p in folder.glob("*") if p.is_file()] if nearest == folder else []
    size = runtime.format_bytes(sum(p.stat().st_size for p in files))
    return Fact("good", "compile cache", f"{folder}: {len(files)} files, {size}")


def _has_nvidia_card() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _memory() -> Iterator[Fact]:
    yield from _memory_fact("memory", host.memory())
    try:
        device = runtime.device_memory()
    except Exception:  # `_jax` has said why
        return
    yield from _memory_fact("device memory", device)


def _memory_fact(topic: str, memory: host.Memory | None) -> Iterator[Fact]:
    if memory is None:
        return
    free, total = map(runtime.format_bytes, memory)
    if memory.free < 2**30:
        yield Fact(
            "advice", topic, f"{free} free of {total}",
            "a training may not fit: lower --buffer-size, or stop something else",
        )  # fmt: skip
    else:
        yield Fact("good", topic, f"{free} free of {total}")


# Simulators ---------------------------------------------------------------------------


def _suites() -> Iterator[Fact]:
    names = metadata.packages_distributions()
    for prefix, package in registry.suites().items():
        if package is None:
            continue
        # MuJoCo Playground is installed by another name than it is imported by.
        version = _version(names.get(package, [package])[0])
        if version:
            yield Fact("good", f"suite {prefix}", f"{package} {version}")
        else:
            yield Fact("good", f"suite {prefix}", f"not installed ({package})")
    envpool = _version("envpool")
    yield Fact("good", "pool envpool", envpool or "not installed")
    mujoco = _version("mujoco")
    if mujoco and int(mujoco.split(".")[0]) >= 4:
        yield Fact(
            "advice", "mujoco", f"{mujoco}, which dm_control's tasks cannot use",
            "pip install 'mujoco>=3.17,<4'",
        )  # fmt: skip
    elif mujoco:
        yield Fact("good", "mujoco", mujoco)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _rendering(timeout: float) -> Iterator[Fact]:
    """Films need one library that draws; training needs none."""
    if _version("mujoco") is None:
        yield Fact("good", "OpenGL", "not tried: mujoco is not installed")
        return
    results = {name: draws(name, timeout) for name in GL_BACKENDS}
    for name, reason in results.items():
        yield Fact("good", f"OpenGL {name}", reason or "draws")
    working = [name for name, reason in results.items() if not reason]
    chosen = os.environ.get("MUJOCO_GL")
    if not working:
        yield Fact(
            "advice", "OpenGL", "no library draws: no films, though training works",
            "on Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri",
        )  # fmt: skip
    elif chosen and chosen not in working:
        yield Fact(
            "advice", "OpenGL", f"MUJOCO_GL={chosen} does not draw",
            f"for films, set MUJOCO_GL={working[0]}",
        )  # fmt: skip


def draws(backend: str, timeout: float) -> str:
    """Try to draw with an OpenGL library; return why it does not, or nothing."""
    env = os.environ | {"MUJOCO_GL": backend}
    command = [sys.executable, "-c", _PICTURE]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return f"does not draw within {timeout:g} s"
    except OSError as error:
        return f"cannot be tried: {error}"
    if done.stdout.strip() == "drawn":
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"does not draw: {lines[-1][:200]}"
