"""Rendering without a display: find an OpenGL backend for MuJoCo before it is imported."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ebt_policy.errors import UserError
from ebt_policy.extras import missing_extra

BACKENDS = ("egl", "osmesa")  # EGL uses a GPU or Mesa; OSMesa is a software renderer
_PROBE = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"


def ensure_rendering(simulator: str = "mujoco") -> None:
    """Set MUJOCO_GL to a working backend for this process and its children, unless it is set already.

    Call it before MuJoCo is imported, which reads the variable then. Raises UserError if no backend works, or if the
    module `simulator` is not installed.
    """
    for module in (simulator, "mujoco"):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(module)
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = find_backend()
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])


@functools.cache
def find_backend(backends: tuple[str, ...] = BACKENDS) -> str:
    """The first backend that opens an OpenGL context. Each is tried in a process of its own, because a failure may crash it."""
    failures = []
    for backend in backends:
        environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return backend
        lines = done.stderr.strip().splitlines()
        failures.append(f"{backend}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    raise UserError(
        "No OpenGL works here, and cameras need one. Install EGL (Debian, Ubuntu: apt-get install libegl1 "
        "libgl1-mesa-dri) or the software renderer (apt-get install libosmesa6). Tried " + "; ".join(failures)
    )


@contextmanager
def opengl_explained() -> Iterator[None]:
    """For the first import of MuJoCo. It fails with an AttributeError of PyOpenGL if the library that MUJOCO_GL names is not
    installed; this raises a UserError instead.
    """
    try:
        yield
    except AttributeError as error:
        backend = os.environ.get("MUJOCO_GL")
        if not backend:
            raise
        raise UserError(
            f"MUJOCO_GL is '{backend}', and this machine cannot load that OpenGL ({error}). Unset MUJOCO_GL: a working "
            "backend is then found, and episodes without pictures need none. Or install it (Debian, Ubuntu: apt-get install libosmesa6, "
            "or libegl1 libgl1-mesa-dri)."
        ) from error
