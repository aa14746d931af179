"""Drawing without a display: which OpenGL MuJoCo should use, found once and before MuJoCo is imported."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

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
