"""A policy's name may be a folder, a shipped one or one on the Hub; a wrong one is refused at once and in clear words."""

import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ebt_policy.errors import UserError
from ebt_policy.inference import checkpoints
from ebt_policy.inference.checkpoints import find_checkpoint


@pytest.fixture
def hub(monkeypatch, checkpoint):
    """A Hub with the one model me/my_policy; returns what was asked of it."""
    asked = []

    def download(repo_id, revision=None, allow_patterns=None, **options):
        asked.append((repo_id, revision))
        assert not any(
            "*.py" in pattern or "*.pkl" in pattern or pattern == "*" for pattern in allow_patterns
        )
        if repo_id != "me/my_policy":
            raise LocalEntryNotFoundError("not cached")
        return str(checkpoint("ebt"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoints._downloaded.cache_clear()
    yield asked
    checkpoints._downloaded.cache_clear()


@pytest.mark.parametrize(
    ("spec", "revision"),
    [("me/my_policy", None), ("me/my_policy@v1", "v1"), ("me/my_policy@refs/pr/2", "refs/pr/2")],
)
def test_a_name_on_the_hub_is_downloaded_at_its_revision_and_once(hub, checkpoint, spec, revision):
    assert find_checkpoint(spec) == find_checkpoint(Path(spec)) == checkpoint("ebt")
    assert hub == [("me/my_policy", revision)]


def test_a_folder_comes_before_the_hub_and_a_mistyped_one_asks_nobody(hub, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint("ebt"), tmp_path / "me" / "my_policy")
    assert find_checkpoint("me/my_policy") == Path("me/my_policy")
    with pytest.raises(UserError, match="'me/my_polisy' does not exist"):
        find_checkpoint("me/my_polisy")
    for spec in ("my_policy", "a/b/c", "me/", "/me/my_policy"):
        with pytest.raises(UserError, match="does not exist|holds no checkpoint"):
            find_checkpoint(spec)
    assert not hub


def test_without_network_it_fails_fast_and_says_so(monkeypatch):
    """The real download function; the tests set HF_HUB_OFFLINE."""
    checkpoints._downloaded.cache_clear()
    began = time.perf_counter()
    with pytest.raises(UserError, match="'nobody/nothing' at revision 'v9'.*cannot be reached"):
        find_checkpoint("nobody/nothing@v9")
    assert time.perf_counter() - began < 5


def test_an_adapter_is_not_taken_for_a_policy(checkpoint, tmp_path):
    shutil.copytree(checkpoint("ebt"), tmp_path / "tuned")
    (tmp_path / "tuned" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="PEFT adapter"):
        find_checkpoint(tmp_path / "tuned")
