"""Films: names, files, frames, and one of a real simulator."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

import test_envs_toys as toys
from planprior import doctor, video
from planprior.envs.base import EnvError

pytest.importorskip("imageio", reason="imageio is not installed")


def frames(count: int = 6) -> Iterator[np.ndarray]:
    return (np.full((48, 64, 3), 25 * i, np.uint8) for i in range(count))


class Filmed(toys.Counter):
    """Its picture is as bright as its step counter."""

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        return np.full((height, width, 3), self.count, np.uint8)


@pytest.mark.parametrize("name", ["film.avi", "film", "film.mp4.txt"])
def test_a_wrong_ending_is_named_before_any_frame_is_made(name):
    def never() -> Iterator[np.ndarray]:
        raise AssertionError
        yield

    with pytest.raises(ValueError, match=f"video is '{name}'; its name must end in"):
        video.write(name, never())


def test_a_wrong_place_is_named_before_any_frame_is_made(tmp_path, capfd):
    (tmp_path / "film.gif").mkdir()
    for path, reason in (
        ("/proc/film.gif", "No such file or directory"),
        (tmp_path / "film.gif", "it is a folder"),
    ):
        sentence = f"video is '{path}'; it must be where a file can be written: "
        with pytest.raises(ValueError, match=re.escape(sentence + reason)):
            video.write(path, iter(lambda: pytest.fail("too late"), None))
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_times_to_draw_are_one_sentence(seconds):
    sentence = f"gl_timeout is {seconds}; it must be above 0 and at most 3600"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        doctor.examine(seconds)


@pytest.mark.parametrize(
    ("missing", "name", "works"),
    [
        ("imageio", "film.mp4", False),
        ("imageio", "film.gif", False),
        ("imageio_ffmpeg", "film.mp4", False),
        ("imageio_ffmpeg", "film.GIF", True),
    ],
)
def test_a_missing_package_comes_with_the_command(missing, name, works, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda x: None if x == missing else found(x)
    )
    if works:
        video.check(name)
        return
    sentence = rf"need the package {missing}; run: pip install 'planprior\[video\]'$"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        video.check(name)


@pytest.mark.parametrize(("fps", "duration"), [(12.5, 80), (100.0, 20)])
def test_gif(fps, duration, tmp_path):
    from PIL import Image

    path = tmp_path / "new" / "film.gif"
    assert video.write(path, frames(), fps) == path
    with Image.open(path) as film:
        assert (film.n_frames, film.size) == (6, (64, 48))  # pyright: ignore
        assert film.info["duration"] == duration
        for i in range(6):
            film.seek(i)
            assert np.asarray(film.convert("RGB")).mean() == 25 * i
    assert os.listdir(path.parent) == ["film.gif"]


def test_mp4(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = video.write(tmp_path / "film.mp4", frames(), fps=25.0)
    assert ffmpeg.count_frames_and_secs(str(path)) == (6, pytest.approx(6 / 25))
    decode = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path]
    decode += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    film = subprocess.run(decode, capture_output=True, check=True).stdout
    film = np.frombuffer(film, np.uint8).reshape(6, 48, 64, 3)
    np.testing.assert_allclose(film.mean(axis=(1, 2, 3)), 25 * np.arange(6), atol=3)
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    path = video.write(tmp_path / "film.gif", frames())
    before = path.read_bytes()

    def broken() -> Iterator[np.ndarray]:
        yield from frames()
        raise ZeroDivisionError("in the middle")

    with pytest.raises(ZeroDivisionError, match="in the middle"):
        video.write(path, broken())
    with pytest.raises(ValueError, match="there is no frame to write to"):
        video.write(path, [])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["film.gif"]


def test_an_episode_shows_every_state_once():
    env = Filmed(1)
    seen = []

    def act(observation: np.ndarray) -> np.ndarray:
        seen.append(observation[0])
        return np.full(2, 3.0)

    film = list(video.episode(env, act, seed=1, height=8, width=10))
    length = toys.counter_length(1)
    assert [frame.max() for frame in film] == list(range(length + 1))
    assert film[0].shape == (8, 10, 3)
    assert seen == list(range(length))


def test_an_environment_without_pictures_says_so():
    with pytest.raises(EnvError, match="toy:counter has no render"):
        next(video.episode(toys.Counter(0), lambda _: np.zeros(2)))


def test_the_frame_rate_shows_true_speed():
    env = toys.Counter(0)
    assert video.frame_rate(env) == pytest.approx(30)
    env.step_seconds = 0.02
    assert video.frame_rate(env) == pytest.approx(50)


FILM = """
import itertools, sys
import numpy as np
from planprior import video
from planprior.envs.registry import make_env
env = make_env("cheetah-run", 0)
frames = video.episode(env, lambda _: np.ones(6, np.float32), height=48, width=64)
video.write(sys.argv[1], itertools.islice(frames, 4), video.frame_rate(env))
env.close()
"""


@pytest.mark.skipif(
    sys.platform.startswith("linux") and find_library("EGL") is None,
    reason="no EGL library to render with",
)
def test_a_film_of_a_simulator(tmp_path):
    from PIL import Image

    pytest.importorskip("dm_control", reason="dm_control is not installed")
    path = Path(tmp_path) / "film.gif"
    ran = subprocess.run(
        [sys.executable, "-c", FILM, path],
        env=dict(os.environ, MUJOCO_GL="egl"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    with Image.open(path) as film:
        assert film.n_frames == 4  # pyright: ignore
        assert film.info["duration"] == 20
        assert np.asarray(film.convert("RGB")).std() > 5, "an empty picture"
