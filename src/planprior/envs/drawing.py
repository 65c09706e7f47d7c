"""Pictures of a MuJoCo simulation, for suites that draw otherwise or not at all."""

import importlib
from typing import Any

import numpy as np

from planprior.envs.base import EnvError


class Drawing:
    """Draws a simulation, by one of its cameras. The first picture starts OpenGL."""

    def __init__(self, name: str, model: Any, data: Any, camera: str) -> None:
        """Keep what is to be drawn.

        Args:
            name: The task's full name, for errors.
            model: A `mujoco.MjModel`.
            data: Its `mujoco.MjData`.
            camera: A name of the model's.
        """
        self._name, self._camera = name, camera
        self._model, self._data = model, data
        self._renderer: Any = None

    def picture(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture of the present state, uint8 [height, width, 3].

        Raises:
            EnvError: OpenGL does not work here.
        """
        try:
            renderer = self._of_size(height, width)
            renderer.update_scene(self._data, camera=self._camera)
            return renderer.render()
        except Exception as error:
            raise EnvError(
                f"{self._name} cannot be rendered: {error}; on a Linux machine "
                "without a screen, set MUJOCO_GL=egl"
            ) from error

    def _of_size(self, height: int, width: int) -> Any:
        renderer = self._renderer
        if renderer is None or (renderer.height, renderer.width) != (height, width):
            self.close()
            mujoco = importlib.import_module("mujoco")
            self._renderer = mujoco.Renderer(self._model, height, width)
        return self._renderer

    def close(self) -> None:
        """Free OpenGL, if it was started."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
