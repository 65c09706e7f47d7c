"""Films of an environment, written to .mp4 or .gif.

It needs imageio, and rendering needs OpenGL; nothing else imports this file, so that
training needs neither.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from planprior import places
from planprior.envs.base import Env

_PACKAGES = {".mp4": ("imageio", "imageio_ffmpeg"), ".gif": ("imageio", "PIL")}


def check(path: str | Path) -> None:
    """Check that a film can be written to `path`, before time is spent on it.

    Raises:
        ValueError: The name has another ending than .mp4 or .gif, or nothing can be
            written there.
        ModuleNotFoundError: A package is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _PACKAGES:
        raise ValueError(f"video is {str(path)!r}; its name must end in .mp4 or .gif")
    for package in _PACKAGES[suffix]:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{suffix} files need the package {package}; run: "
                "pip install 'planprior[video]'"
            )
    places.require_place("video", path)


def frame_rate(env: Env) -> float:
    """Return the frames per second at which one frame a step shows true speed."""
    return 1.0 / env.step_seconds


def episode(
    env: Env,
    act: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int | None = None,
    height: int = 240,
    width: int = 320,
) -> Iterator[np.ndarray]:
    """Play an episode and yield a frame of every state, the first and last included.

    Args:
        env: Where to play.
        act: Gives the action for an observation.
        seed: Of the episode; where not given, the environment's stream goes on.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
    """
    observation = env.reset(seed)
    yield env.render(height, width)
    ended = False
    while not ended:
        action = np.clip(np.asarray(act(observation), np.float32), -1.0, 1.0)
        outcome = env.step(action)
        observation = outcome.observation
        ended = outcome.terminated or outcome.truncated
        yield env.render(height, width)


def write(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> Path:
    """Write a film; a film of this name is replaced once the new one is whole.

    Args:
        path: Where to; ends in .mp4 or .gif. Its folder is made if need be.
        frames: Pictures of one size, uint8 [height, width, 3].
        fps: Frames per second. A .gif can only approach it, and has at most 50.

    Returns:
        The path.
    """
    check(path)
    path = Path(path)
    with places.replacing(path) as aside:
        with contextlib.closing(_writer(aside, fps)) as writer:
            for frame in frames:
                writer.append_data(frame)
        if not aside.exists():
            raise ValueError(f"there is no frame to write to {path}")
    return path


def _writer(path: Path, fps: float) -> Any:
    from imageio import v2

    if path.suffix == ".gif":
        # Players slow down what is faster than 50 frames per second.
        milliseconds = max(20.0, 1000.0 / fps)
        return v2.get_writer(path, format="GIF", duration=milliseconds, loop=0)  # pyright: ignore
    # 2 is what the codec needs; imageio's 16 would stretch pictures of other sizes.
    return v2.get_writer(path, format="FFMPEG", fps=fps, macro_block_size=2)  # pyright: ignore
