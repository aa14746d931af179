"""A policy's name may be a folder, a shipped one or one on the Hub; a wrong one is refused at once and in clear words."""

import json
import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ebt_policy.errors import UserError
from ebt_policy.inference import checkpoints
from ebt_policy.inference.checkpoints import find_checkpoint, list_shipped
from ebt_policy.inference.runner import load_runner
from ebt_policy.inference.untrusted import POLICIES_WITH_CODE, STEPS_WITH_CODE, check_files


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


def changed(folder: Path, copy: Path, file: str, change) -> Path:
    """A copy of a checkpoint whose JSON file `file` went through `change`."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / file).read_text())
    change(values)
    (copy / file).write_text(json.dumps(values))
    return copy


PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")


@pytest.mark.parametrize("file", PROCESSORS)
@pytest.mark.parametrize("load", [find_checkpoint, load_runner])
def test_a_checkpoint_runs_no_program(checkpoint, tmp_path, file, load):
    marker = tmp_path / "ran"
    step = {"class": "subprocess.Popen", "config": {"args": ["touch", str(marker)]}}
    folder = changed(checkpoint("ebt"), tmp_path / "copy", file, lambda values: values["steps"].append(step))
    with pytest.raises(UserError, match=rf"{file} could run any program.*'subprocess\.Popen'"):
        load(folder)
    time.sleep(0.2)  # the program would be another process
    assert not marker.exists()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, "not registered"),
        ({"registry_name": 3}, "not registered"),
        ({"registry_name": "device_processor", "class": "os.system"}, "'os.system' is named by import path"),
        *(({"registry_name": name}, f"'{name}' runs code") for name in STEPS_WITH_CODE),
        *(
            ({"registry_name": "normalizer_processor", "state_file": name}, "expected the name of a file")
            for name in ("../x.safetensors", "/x.safetensors", "C:\\x.safetensors", "not_there", "", None, 3)
        ),
    ],
)
def test_a_step_that_leaves_the_folder_or_the_registry_is_refused(checkpoint, tmp_path, step, message):
    (tmp_path / "x.safetensors").touch()
    folder = changed(
        checkpoint("ebt"), tmp_path / "copy", PROCESSORS[0], lambda values: values["steps"].append(step)
    )
    with pytest.raises(UserError, match=message):
        find_checkpoint(folder)


@pytest.mark.parametrize("kind", POLICIES_WITH_CODE)
def test_a_policy_that_runs_code_from_the_hub_is_refused(checkpoint, tmp_path, kind):
    folder = changed(checkpoint("ebt"), tmp_path / "copy", "config.json", lambda c: c.update(type=kind))
    with pytest.raises(UserError, match=f"type '{kind}' runs code"):
        find_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"steps": {}}', '{"steps": ["x"]}'])
def test_a_processor_that_is_none_is_refused(checkpoint, tmp_path, text):
    shutil.copytree(checkpoint("ebt"), tmp_path / "copy")
    (tmp_path / "copy" / PROCESSORS[1]).write_text(text)
    with pytest.raises(UserError, match=r"policy_postprocessor\.json (is no processor|cannot be read)"):
        find_checkpoint(tmp_path / "copy")


def test_what_the_package_and_lerobot_save_is_taken(checkpoint):
    for kind in ("ebt", "matched_baseline", "diffusion", "act"):
        assert find_checkpoint(checkpoint(kind)) == checkpoint(kind)
    for name in list_shipped():
        check_files(find_checkpoint(f"shipped:{name}"))
