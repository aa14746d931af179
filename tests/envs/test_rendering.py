"""A missing OpenGL is named, and other errors are not taken for it."""

import pytest

from ebt_policy.envs.rendering import find_backend, opengl_explained
from ebt_policy.errors import UserError


def test_an_opengl_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError, match="MUJOCO_GL is 'osmesa'.*Unset MUJOCO_GL"), opengl_explained():
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")


def test_other_mistakes_stay_what_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(AttributeError), opengl_explained():
        raise AttributeError("x")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(ImportError), opengl_explained():
        raise ImportError("robosuite")


def test_where_no_backend_opens_it_says_what_to_install():
    with pytest.raises(UserError, match=r"apt-get install.*Tried nothing-of-the-kind: "):
        find_backend(("nothing-of-the-kind",))
