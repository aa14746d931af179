"""Drawing without a display: which OpenGL MuJoCo should use, found once and before MuJoCo is imported."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ebt_policy.errors import UserError

BACKENDS = ("egl", "osmesa")  # a GPU or Mesa through EGL; software alone
_PROBE = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"


def ensure_rendering() -> None:
    """Sets MUJOCO_GL to a backend that works, for this process and its children, unless it is set already.

    Call it before MuJoCo is imported: it chooses its backend then. Raises UserError where none works.
    """
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = find_backend()
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])


@functools.cache
def find_backend(backends: tuple[str, ...] = BACKENDS) -> str:
    """The first backend that opens a context, each tried in a process of its own: a failed one can end it."""
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
    """Around the first import of MuJoCo, which loads the OpenGL that MUJOCO_GL names, and fails by an AttributeError of
    PyOpenGL where that is not installed. Raises UserError then.
    """
    try:
        yield
    except AttributeError as error:
        backend = os.environ.get("MUJOCO_GL")
        if not backend:
            raise
        raise UserError(
            f"MUJOCO_GL is '{backend}', and this machine cannot load that OpenGL ({error}). Unset MUJOCO_GL: what works is then "
            "found, and episodes without pictures need none. Or install it (Debian, Ubuntu: apt-get install libosmesa6, "
            "or libegl1 libgl1-mesa-dri)."
        ) from error
