"""Converted demonstrations of Adroit Door equal what the environment shows while their actions are executed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED_DATASETS
from lerobot.datasets.lerobot_dataset import LeRobotDataset

import ebt_policy.cli as cli
from ebt_policy.envs import adroit
from ebt_policy.envs.convert.adroit import AFTER, SPREAD, convert, read, replay
from ebt_policy.errors import UserError

pytest.importorskip("gymnasium_robotics")
HUMAN = SHARED_DATASETS / "adroit_door" / "human_demonstrations.npz"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(change) -> a file with the demonstrations 00 and 01 of some ticks, changed."""

    def write(change: Callable = lambda arrays: None) -> Path:
        rng = np.random.default_rng(0)
        arrays = {}
        for number in range(2):
            arrays[f"{number:02d}/actions"] = rng.uniform(-1.3, 1.3, (6 + number, 28)).astype(np.float32)
            arrays[f"{number:02d}/observations"] = np.full((6 + number, 39), 7, np.float32)
            arrays[f"{number:02d}/init/door_body_pos"] = np.array([-0.25, 0.3, 0.3 + 0.02 * number])
            arrays[f"{number:02d}/init/qpos"] = np.zeros(30)
            arrays[f"{number:02d}/init/qvel"] = np.zeros(30)
        change(arrays)
        path = tmp_path / "demonstrations.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_observations_are_those_before_each_action_and_actions_those_that_act(write, tmp_path) -> None:
    path = write()
    record = convert(path, tmp_path / "out", "local/door", keep_failed=True)
    assert json.loads((tmp_path / "out" / "convert.json").read_text()) == record
    assert [kept["ticks"] for kept in record["kept"]] == [6, 7] and record["dropped"] == []
    assert all(0.1 < kept["clipped"] < 0.4 for kept in record["kept"])

    dataset = LeRobotDataset("local/door", tmp_path / "out")
    assert dataset.meta.fps == 100
    assert tuple(dataset.meta.features["observation.state"]["names"]) == adroit.STATE_NAMES
    assert tuple(dataset.meta.features["action"]["names"]) == adroit.ACTION_NAMES
    found = {name: np.stack(values) for name, values in dataset.hf_dataset.with_format("numpy")[:].items()}
    assert np.abs(found["action"]).max() == 1
    with np.load(path) as file:
        np.testing.assert_array_equal(found["action"][:6], file["00/actions"].clip(-1, 1))
        start = {key: file[f"01/init/{key}"] for key in ("door_body_pos", "qpos", "qvel")}
    env = adroit.make("door")
    env.reset(seed=5)
    simulator = env.unwrapped.simulator
    simulator.env.set_env_state(start)
    observation = env.unwrapped.get_obs()
    for tick in range(6, 13):
        np.testing.assert_allclose(found["observation.state"][tick], observation["agent_pos"], rtol=1e-6)
        seen = observation["environment_state"]
        np.testing.assert_allclose(found["observation.environment_state"][tick], seen, rtol=1e-5, atol=1e-6)
        observation, *_ = env.step(found["action"][tick])
    env.close()


def test_those_that_leave_the_door_shut_are_dropped_and_counted(write, tmp_path, monkeypatch) -> None:
    path = write()
    with pytest.raises(UserError, match="none of the 2 demonstrations opens the door. --keep-failed"):
        convert(path, tmp_path / "none", "local/none")
    assert not (tmp_path / "none").exists()

    scores = iter(
        [adroit.Score(0.5, False)] * 6 + [adroit.Score(0.5, False)] * 3 + [adroit.Score(1, True)] * 4
    )
    monkeypatch.setattr(adroit.DoorSimulator, "score", lambda self: next(scores))
    record = convert(path, tmp_path / "some", "local/some")
    assert [kept["name"] for kept in record["kept"]] == ["01"]
    assert record["kept"][0]["solved_after"] == 4
    assert [dropped["name"] for dropped in record["dropped"]] == ["00"]


def opens(monkeypatch: pytest.MonkeyPatch, when: Callable[[np.ndarray], bool]) -> None:
    """Let the door count as open from the third tick on where `when` says so of its place (3,)."""
    ticks = [0]
    enter, tick = adroit.DoorSimulator.enter, adroit.DoorSimulator.tick

    def entered(self, door, *rest):
        ticks[0] = 0
        self.place = door
        enter(self, door, *rest)

    def ticked(self, action):
        ticks[0] += 1
        tick(self, action)

    def score(self):
        return adroit.Score(0.0, ticks[0] >= 3 and when(self.place))

    monkeypatch.setattr(adroit.DoorSimulator, "enter", entered)
    monkeypatch.setattr(adroit.DoorSimulator, "tick", ticked)
    monkeypatch.setattr(adroit.DoorSimulator, "score", score)


def test_replays_at_other_places_are_kept_where_they_open_the_door(write, tmp_path, monkeypatch) -> None:
    def longer(arrays):
        for name in ("00/actions", "01/actions"):
            arrays[name] = np.tile(arrays[name], (4, 1))

    path = write(longer)
    recorded = {demo.name: demo.start["door_body_pos"] for demo in read(path)}
    opens(monkeypatch, lambda door: door[0] > -0.25)
    record = convert(path, tmp_path / "out", "local/out", places=6)
    assert record["attempted"] == 2 * 7 and 0 < len(record["kept"]) < 12
    # Both demonstrations were recorded at -.25, where nothing opens: what is kept are replays.
    assert all("+" in kept["name"] for kept in record["kept"])
    dataset = LeRobotDataset("local/out", tmp_path / "out")
    found = {name: np.stack(values) for name, values in dataset.hf_dataset.with_format("numpy")[:].items()}
    assert np.bincount(found["episode_index"]).tolist() == [3 + AFTER] * len(record["kept"])

    names = [name.removeprefix("handle_") for name in adroit.ENVIRONMENT_NAMES]
    handle = found["observation.environment_state"][:, [names.index(axis) for axis in "xyz"]]
    with np.load(path) as file:
        for number, kept in enumerate(record["kept"]):
            source, rows = kept["name"].split("+")[0], found["episode_index"] == number
            np.testing.assert_array_equal(
                found["action"][rows], file[f"{source}/actions"][: 3 + AFTER].clip(-1, 1)
            )
            simulator = adroit.DoorSimulator()
            simulator.enter(recorded[source], np.zeros(30), np.zeros(30))
            moved = handle[rows][0] - simulator.environment_state()[2:5]
            assert 0 < np.abs(moved).max() <= SPREAD + 1e-6

    again = convert(path, tmp_path / "again", "local/again", places=6)
    assert again["kept"] == record["kept"]


def test_the_environment_replays_what_people_did() -> None:
    if not HUMAN.is_file():
        pytest.skip("the people's demonstrations are not here")
    with np.load(HUMAN) as file:
        recorded = file["24/observations"]
    demo = next(demo for demo in read(HUMAN) if demo.name == "24")
    columns, outcome = replay(adroit.DoorSimulator(), demo)
    assert outcome.solved_after is not None and outcome.ticks == len(recorded)
    hinge = columns["observation.environment_state"][:, adroit.ENVIRONMENT_NAMES.index("door_hinge")]
    there = recorded[:, adroit.OBSERVATION_NAMES.index("door_hinge")]
    assert np.abs(hinge - there).max() < 0.15  # rad, of 1.6


def bad(change: Callable, message: str):
    return pytest.param(change, message, id=change.__name__)


def no_actions(arrays):
    for name in ("00/actions", "01/actions"):
        del arrays[name]


def other_hand(arrays):
    arrays["00/actions"] = arrays["00/actions"][:, :24]


def no_start(arrays):
    del arrays["01/init/qpos"]


def short_start(arrays):
    arrays["01/init/qpos"] = np.zeros(29)


def not_a_number(arrays):
    arrays["00/actions"][2, 3] = np.nan


def objects(arrays):
    arrays["00/actions"] = np.array([{"a": 1}], dtype=object)


def whole_numbers(arrays):
    arrays["00/actions"] = np.zeros((4, 28), int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        bad(no_actions, "no array NN/actions .found: 00/observations"),
        bad(other_hand, r"00/actions has shape \(6, 24\); expected \(ticks, 28\)"),
        bad(no_start, "there is no array 01/init/qpos"),
        bad(short_start, r"01/init/qpos has shape \(29,\); expected \(30,\)"),
        bad(not_a_number, "00/actions has entries that are NaN or infinite"),
        bad(objects, "cannot be read as .npz"),  # pickled, and never loaded
        bad(whole_numbers, "00/actions holds int64; expected floating-point"),
    ],
)
def test_bad_files_are_named_and_leave_nothing(change, message, write, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        convert(write(change), tmp_path / "out", "local/out", keep_failed=True)
    assert not (tmp_path / "out").exists()


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "missing.npz", tmp_path / "out", "local/out")
    for content in (b"", b"no archive", b"PK\x03\x04 damaged"):
        (tmp_path / "other.npz").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as .npz"):
            convert(tmp_path / "other.npz", tmp_path / "out", "local/out")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UserError, match="cannot be read as .npz"):
        convert(tmp_path / "array.npy", tmp_path / "out", "local/out")


def test_places_are_refused_for_other_formats(tmp_path, monkeypatch, capsys) -> None:
    arguments = ["convert", "robomimic", "x.hdf5", "--output", str(tmp_path / "out"), "--places", "3"]
    monkeypatch.setattr(sys, "argv", ["ebt-policy", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--places is for format adroit" in capsys.readouterr().err


def test_another_environment_is_refused_on_the_command_line(write, tmp_path, monkeypatch, capsys) -> None:
    arguments = [
        "convert",
        "adroit",
        str(write()),
        "--output",
        str(tmp_path / "out"),
        "--env",
        "robosuite_door",
    ]
    monkeypatch.setattr(sys, "argv", ["ebt-policy", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert "demonstrations in format adroit are of adroit_door" in capsys.readouterr().err
