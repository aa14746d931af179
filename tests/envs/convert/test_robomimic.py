"""Converted robomimic files equal what the environment would have recorded; a bad file leaves no dataset behind."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

import ebt_policy.cli as cli
from ebt_policy.envs.collect import Collection, demonstrate
from ebt_policy.envs.convert.robomimic import convert
from ebt_policy.envs.robosuite_tasks import RobosuiteSimulator
from ebt_policy.errors import UserError

h5py = pytest.importorskip("h5py")
pytest.importorskip("robosuite")

CONTROLLER = {"type": "OSC_POSE", "input_type": "delta", "input_ref_frame": "world", "kp": 150}
CONTROLLER |= {"input_min": -1, "input_max": 1, "damping_ratio": 1, "impedance_mode": "fixed"}
CONTROLLER |= {"output_min": [-0.05] * 3 + [-0.5] * 3, "output_max": [0.05] * 3 + [0.5] * 3}
SETTINGS = {
    "robots": ["Panda"],
    "control_freq": 20,
    "controller_configs": {"type": "BASIC", "body_parts": {"right": CONTROLLER}},
}
ENV_ARGS = {"env_name": "Lift", "env_version": "1.5.1", "type": 1, "env_kwargs": SETTINGS}
Demos = list[dict]


@pytest.fixture(scope="module")
def demos() -> Demos:
    """Two of the expert's demonstrations: what `collect` has of them, the scene and the states before each action."""
    recorded = []
    tick = RobosuiteSimulator.tick
    for seed in (0, 1):
        states: list[np.ndarray] = []
        scenes: list[str] = []

        def watched(simulator, action, states=states, scenes=scenes):
            states.append(simulator.env.sim.get_state().flatten())
            if not scenes:
                scenes.append(simulator.env.sim.model.get_xml())
            tick(simulator, action)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RobosuiteSimulator, "tick", watched)
            columns = demonstrate(Collection("robosuite_lift", 1, seed, 0.0), seed)
        recorded.append({"columns": columns, "states": np.stack(states), "scene": scenes[0]})
    return recorded


@pytest.fixture
def write(tmp_path: Path, demos: Demos) -> Callable[..., Path]:
    """write(change) -> a file in robomimic's layout with demo_0, demo_1 and demo_2 (the first again), changed."""

    def write(change: Callable = lambda file: None) -> Path:
        path = tmp_path / "source" / "low_dim.hdf5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps(ENV_ARGS)
            for number, demo in enumerate([*demos, demos[0]]):
                group = data.create_group(f"demo_{number}")
                group.attrs["model_file"] = demo["scene"]
                group["states"], group["actions"] = demo["states"], demo["columns"]["action"]
                group["obs/object"] = np.zeros((len(demo["states"]), 10))
                group["obs/robot0_eef_pos"] = demo["columns"]["observation.state"][:, :3]
            file["mask/train"] = np.array([b"demo_0", b"demo_2"])
            file["mask/valid"] = np.array([b"demo_1"])
            file["mask/one"] = np.array([b"demo_2"])
            change(file)
        return path

    return write


def frames(folder: Path) -> dict[str, np.ndarray]:
    columns = LeRobotDataset("local/x", folder).hf_dataset.with_format("numpy")
    names = ("observation.state", "observation.environment_state", "action", "episode_index")
    return {name: np.stack(columns[name]) for name in names}


def in_old_layout(file) -> None:
    """As robosuite 1.0 wrote: neither observations nor scenes, another way to name the environment."""
    data = file["data"]
    del data.attrs["env_args"], file["mask"]
    data.attrs["env"], data.attrs["repository_version"] = "Lift", "1.0.0"
    old = {key: value for key, value in CONTROLLER.items() if not key.startswith("input_")}
    data.attrs["env_info"] = json.dumps(
        {"robots": "Panda", "controller_configs": old | {"control_delta": True}}
    )
    for name in data:
        data[name].attrs["model_file"] = "model_1.xml"
        del data[name]["obs"]


def with_named_observations(file, demos: Demos) -> None:
    for name, demo in zip(("demo_0", "demo_1", "demo_2"), [*demos, demos[0]], strict=True):
        obs = file[f"data/{name}/obs"]
        robot, cube = (demo["columns"][f"observation.{key}"] for key in ("state", "environment_state"))
        obs["robot0_eef_quat"], obs["robot0_gripper_qpos"] = robot[:, 3:7], robot[:, 7:]
        obs["cube_pos"], obs["cube_quat"] = cube[:, :3], cube[:, 3:]


def cut(file, name: str, ticks: int) -> None:
    """Only the first `ticks`, in which nothing is lifted."""
    group = file["data"][name]
    for key in ("states", "actions", "obs/object", "obs/robot0_eef_pos"):
        values = group[key][:ticks]
        del group[key]
        group[key] = values


def test_a_replay_gives_what_collect_gives_and_keeps_the_splits(write, tmp_path, demos):
    record = convert(write(), tmp_path / "out" / "lift", "local/lift")
    assert [kept["name"] for kept in record["kept"]] == ["demo_0", "demo_2", "demo_1"]
    assert all(kept["observations"] == "replayed" and kept["solved"] for kept in record["kept"])
    assert record["warnings"] == [] == record["dropped"] and record["attempted"] == 3
    folder = tmp_path / "out" / "lift"
    assert json.loads((folder / "convert.json").read_text()) == record
    assert json.loads((folder / "meta" / "filter_keys.json").read_text()) == {
        "one": [1],
        "train": [0, 1],
        "valid": [2],
    }
    assert LeRobotDataset("local/lift", folder).meta.info.splits == {"train": "0:2", "valid": "2:3"}
    found = frames(folder)
    for episode, demo in enumerate([demos[0], demos[0], demos[1]]):
        here = found["episode_index"] == episode
        np.testing.assert_array_equal(found["action"][here], demo["columns"]["action"])
        for name in ("observation.state", "observation.environment_state"):
            # robosuite's sensors lag the state by up to one physics step, 2 ms.
            np.testing.assert_allclose(found[name][here], demo["columns"][name], atol=5e-3)
    assert [path.name for path in folder.parent.iterdir()] == ["lift"]


def test_robosuite_1_0_is_replayed_in_a_scene_built_anew(write, tmp_path, demos):
    record = convert(write(in_old_layout), tmp_path / "out", "local/out")
    assert [kept["name"] for kept in record["kept"]] == ["demo_0", "demo_1", "demo_2"]
    assert record["fps"] == 20 and record["warnings"] == [] and record["recorded"]["version"] == "1.0.0"
    found = frames(tmp_path / "out")["observation.environment_state"][: len(demos[0]["states"])]
    np.testing.assert_allclose(found, demos[0]["columns"]["observation.environment_state"], atol=5e-3)
    assert LeRobotDataset("local/out", tmp_path / "out").meta.info.splits == {"train": "0:3"}


def test_a_real_robots_observations_are_taken_as_they_are(write, tmp_path, demos):
    def change(file):
        with_named_observations(file, demos)
        file["data"].attrs["env_args"] = json.dumps({"env_name": "EnvRealPanda", "env_kwargs": {}})
        for name in file["data"]:
            del file["data"][name]["states"]

    record = convert(write(change), tmp_path / "out", "local/out", env="robosuite_lift")
    assert {(kept["observations"], kept["solved"]) for kept in record["kept"]} == {("recorded", None)}
    assert any("not known which" in warning for warning in record["warnings"])
    expected = np.concatenate([demos[n]["columns"]["observation.environment_state"] for n in (0, 0, 1)])
    np.testing.assert_array_equal(frames(tmp_path / "out")["observation.environment_state"], expected)


def test_failures_are_dropped_and_counted_or_kept_on_request(write, tmp_path):
    def change(file):
        cut(file, "demo_0", 10)
        cut(file, "demo_2", 10)
        settings = SETTINGS | {"control_freq": 10, "controller_configs": CONTROLLER | {"kp": 100}}
        file["data"].attrs["env_args"] = json.dumps(ENV_ARGS | {"env_kwargs": settings})

    path = write(change)
    record = convert(path, tmp_path / "some", "local/some")
    assert [kept["name"] for kept in record["kept"]] == ["demo_1"]
    assert [dropped["name"] for dropped in record["dropped"]] == ["demo_0", "demo_2"]
    assert "kp = 100; robosuite_lift has 150" in record["warnings"][0] and "10 Hz" in record["warnings"][1]
    assert json.loads((tmp_path / "some" / "meta" / "filter_keys.json").read_text())["valid"] == [0]
    assert LeRobotDataset("local/some", tmp_path / "some").meta.info.splits == {"valid": "0:1"}

    record = convert(path, tmp_path / "all", "local/all", keep_failed=True)
    assert [kept["solved"] for kept in record["kept"]] == [False, False, True]


def bad(change: Callable, message: str):
    return pytest.param(change, message, id=change.__name__)


def missing_actions(file):
    del file["data/demo_0/actions"]


def missing_states_and_names(file):
    del file["data/demo_0/states"]


def other_environment(file):
    file["data"].attrs["env_args"] = json.dumps(ENV_ARGS | {"env_name": "TwoArmTransport"})


def other_robot(file):
    file["data"].attrs["env_args"] = json.dumps(ENV_ARGS | {"env_kwargs": {"robots": ["Sawyer"]}})


def other_actions(file):
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = np.zeros((len(file["data/demo_0/states"]), 14))


def other_states(file):
    values = file["data/demo_0/states"][:, :-2]
    del file["data/demo_0/states"]
    file["data/demo_0/states"] = values


def fewer_states(file):
    values = file["data/demo_0/states"][:-1]
    del file["data/demo_0/states"]
    file["data/demo_0/states"] = values


def not_a_number(file):
    file["data/demo_0/states"][3, 5] = np.nan


def no_json(file):
    file["data"].attrs["env_args"] = "{'env_name': 'Lift'}"


def no_data(file):
    del file["data"]


def no_demonstrations(file):
    for name in list(file["data"]):
        del file["data"][name]


def huge(file):
    del file["data/demo_0/states"]
    file["data/demo_0"].create_dataset("states", (10**9, 32), "f8", chunks=(1000, 32))


def another_file(file):
    del file["data/demo_0/states"]
    file["data/demo_0"].create_dataset("states", (10, 4), "f8", external=[("/etc/passwd", 0, 320)])


def unknown_selection(file):
    file["mask/mine"] = np.array([b"demo_7"])


def no_scene(file):
    file["data/demo_1"].attrs["model_file"] = "<mujoco><asset/><worldbody/></mujoco>"


def foreign_mesh(file):
    scene = re.sub(
        r'file="[^"]*\.(stl|obj)"',
        r'file="/somewhere/secret.\1"',
        file["data/demo_0"].attrs["model_file"],
        count=1,
    )
    assert "secret" in scene
    file["data/demo_0"].attrs["model_file"] = scene


def entities(file):
    scene = file["data/demo_0"].attrs["model_file"]
    file["data/demo_0"].attrs["model_file"] = scene.replace("<mujoco", "<!DOCTYPE mujoco><mujoco", 1)


def all_fail(file):
    del file["data/demo_1"], file["data/demo_2"], file["mask"]
    cut(file, "demo_0", 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        bad(missing_actions, "data/demo_0 has no actions"),
        bad(missing_states_and_names, "demo_0/obs has no robot0_eef_quat, .*there are no states to replay"),
        bad(other_environment, "'TwoArmTransport'. Environments to convert for: robosuite_lift"),
        bad(other_robot, r"the robot is \['Sawyer'\]; robosuite_lift has a Panda"),
        bad(other_actions, "demo_0: action has 14 numbers; robosuite_lift has 7"),
        bad(other_states, "demo_0: its states have 30 numbers; Lift has 32"),
        bad(fewer_states, r"demo_0/states has \d+ rows; its actions have \d+"),
        bad(not_a_number, "demo_0/states is NaN or infinite at tick 3"),
        bad(no_json, "env_args of data cannot be understood"),
        bad(no_data, r"no group 'data' \(found: mask\)"),
        bad(no_demonstrations, "holds no demonstration"),
        bad(huge, "demo_0/states claims 256,000,000,000 bytes"),
        bad(another_file, "demo_0/states lies in another file"),
        bad(unknown_selection, "mask/mine names demo_7"),
        bad(no_scene, "demo_1: its model_file does not load as a scene of Lift"),
        bad(foreign_mesh, "secret.* is none of robosuite's files"),
        bad(entities, "entities"),
        bad(all_fail, "none of the 1 demonstrations ends in success. --keep-failed"),
    ],
)
def test_bad_files_are_named_and_leave_nothing(change, message, write, tmp_path):
    path = write(change)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "new" / "out", "local/out")
    assert not any((tmp_path / "new").glob("*"))


def test_where_states_do_not_tell_the_scene_nothing_is_invented(write, tmp_path):
    def door(file):
        in_old_layout(file)
        file["data"].attrs["env"] = "Door"
        for group in file["data"].values():
            ticks = len(group["states"])
            del group["states"]
            group["states"] = np.zeros((ticks, 23))

    with pytest.raises(UserError, match="do not tell door_pos, handle_pos: Door places these anew"):
        convert(write(door), tmp_path / "out", "local/out")


def test_a_part_of_a_file_is_no_file(write, tmp_path):
    path = write()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or incomplete"):
        convert(path, tmp_path / "out", "local/out")
    with pytest.raises(UserError, match="no such file"):
        convert(path.with_name("other.hdf5"), tmp_path / "out", "local/out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_on_the_command_line(write, tmp_path, monkeypatch, capsys):
    arguments = ["convert", "robomimic", str(write()), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["ebt-policy", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert "exists already" in capsys.readouterr().err
