"""Datasets as people have them: old formats, half copies, odd types, jittering clocks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.data.doctor import examine
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.tables import read_table
from ebt_policy.data.usable_features import choose_observations
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError

STATE, ACTION, CAMERA = "observation.state", "action", "observation.images.top"
VECTOR = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
DELTAS = {"observation_delta_indices": [0], "action_delta_indices": [0, 1]}


def record(root: Path, features: dict, make_frame, episodes: int = 3, length: int = 12, task="go") -> Path:
    """A dataset of `features`; make_frame(episode, tick) gives their values, task may be a function of the episode."""
    dataset = LeRobotDataset.create("tests/odd", fps=10, root=root, features=features)
    for episode in range(episodes):
        for tick in range(length):
            text = task(episode) if callable(task) else task
            dataset.add_frame(make_frame(episode, tick) | {"task": text})
        dataset.save_episode()
    dataset.finalize()
    return root


def wander(episode: int, tick: int) -> np.ndarray:
    return np.float32([np.sin(tick + 7 * episode), np.cos(tick * (episode + 1))])


def moving(episode: int, tick: int) -> dict:
    return {STATE: wander(episode, tick), ACTION: wander(episode, tick + 1)}


@pytest.fixture
def plain(tmp_path) -> Path:
    return record(tmp_path / "plain", {STATE: VECTOR, ACTION: VECTOR}, moving)


def edit_info(root: Path, change) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def messages(root: Path, **options) -> list[str]:
    return [f"{f.severity} {f.feature}: {f.message}" for f in examine("tests/odd", root, **options).findings]


def test_metadata_is_read_once_and_again_after_a_change(plain):
    first = open_metadata("tests/odd", plain)
    assert open_metadata("tests/odd", plain) is first
    edit_info(plain, lambda info: info.update(fps=20))
    assert (first.fps, open_metadata("tests/odd", plain).fps) == (10, 20)


def test_an_older_format_names_lerobots_conversion_command(plain):
    edit_info(plain, lambda info: info.update(codebase_version="v2.1"))
    (plain / "meta" / "tasks.parquet").unlink()
    with pytest.raises(
        UserError, match=r"v2\.1.*convert_dataset_v21_to_v30 --repo-id=tests/odd --root=.*plain"
    ):
        open_metadata("tests/odd", plain)
    edit_info(plain, lambda info: info.update(codebase_version="v4.0"))
    with pytest.raises(UserError, match="newer LeRobot"):
        open_metadata("tests/odd", plain)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"codebase_version": "v3.0", "fps": 1', "damaged or cut short"),
        ("[]", "no JSON object"),
        ('{"codebase_version": "v3.0", "features": {}}', "gives no 'fps'"),
    ],
)
def test_a_broken_info_file_is_named(plain, content, message):
    (plain / "meta" / "info.json").write_text(content)
    with pytest.raises(UserError, match=rf"info\.json.*{message}"):
        open_metadata("tests/odd", plain)


def test_a_partial_upload_says_what_is_missing(plain):
    edit_info(plain, lambda info: info.update(total_episodes=50))
    with pytest.raises(UserError, match=r"promises 50 episodes, meta/episodes describes 3.*copy it again"):
        open_metadata("tests/odd", plain)


def test_tables_that_do_not_fit_the_description_are_named(plain):
    edit_info(plain, lambda info: info["features"][STATE].update(shape=[3]))
    with pytest.raises(UserError, match=r"cannot be read as meta/info\.json describes"):
        read_table(open_metadata("tests/odd", plain))


def test_rows_that_are_missing_from_the_tables_are_named(plain):
    (path,) = plain.glob("data/*/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 24), path)  # without the last episode
    assert "error data: 0 rows, the metadata says 12." in messages(plain)


def test_cameras_without_names_are_read(tmp_path):
    camera = {"dtype": "image", "shape": (24, 32, 3), "names": ["height", "width", "channels"]}
    picture = np.full((24, 32, 3), 90, np.uint8)
    features = {STATE: VECTOR, ACTION: VECTOR, CAMERA: camera}
    root = record(
        tmp_path / "d", features, lambda e, t: moving(e, t) | {CAMERA: picture + np.uint8(9 * e + t)}
    )
    edit_info(root, lambda info: info["features"][CAMERA].update(names=None))
    assert examine("tests/odd", root).cameras == {CAMERA: "24 x 32, images"}
    windows = Windows.from_lerobot("tests/odd", root, features=[CAMERA, STATE, ACTION], **DELTAS)
    assert windows.stats[CAMERA]["mean"].shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("dtype", "cast"), [("bool", lambda x: x > 0), ("int64", lambda x: (9 * x).astype(int))]
)
def test_bool_and_integer_observations_are_numbers(tmp_path, dtype, cast):
    extra = "observation.extra"
    features = {STATE: VECTOR, ACTION: VECTOR, extra: {"dtype": dtype, "shape": (2,), "names": None}}
    root = record(tmp_path / "d", features, lambda e, t: moving(e, t) | {extra: cast(wander(e, t))})
    assert not examine("tests/odd", root).errors
    windows = Windows.from_lerobot("tests/odd", root, features=[STATE, extra, ACTION], **DELTAS)
    assert windows.batch(windows.episode_index[:2])[extra].dtype.is_floating_point


def test_features_that_no_policy_can_use_name_the_option_that_leaves_them_out(tmp_path):
    features = {
        STATE: VECTOR,
        ACTION: VECTOR,
        "observation.note": {"dtype": "string", "shape": (1,), "names": None},
        "observation.pose": {"dtype": "float32", "shape": (4, 4), "names": None},
        CAMERA: {"dtype": "video", "shape": (24, 32, 3), "names": ["height", "width", "channels"]},
    }
    rest = {"observation.note": "hello", "observation.pose": np.eye(4, dtype=np.float32)}
    picture = {CAMERA: np.zeros((24, 32, 3), np.uint8)}
    root = record(tmp_path / "d", features, lambda e, t: moving(e, t) | rest | picture)
    edit_info(
        root, lambda info: info["features"][CAMERA].setdefault("info", {}).update({"is_depth_map": True})
    )
    meta = open_metadata("tests/odd", root)
    unusable = {"observation.note": "text", "observation.pose": r"shape \(4, 4\)", CAMERA: "depth"}
    for name, kind in unusable.items():
        with pytest.raises(
            UserError, match=rf"{name} is .*{kind}.*--set dataset\.observations='\[{STATE}\]'"
        ):
            choose_observations(meta, [STATE, name])
    found = {f.feature: f for f in examine("tests/odd", root).findings}
    assert unusable.keys() <= found.keys()
    assert all("dataset.observations" in found[name].remedy for name in unusable)
    assert examine("tests/odd", root, features=[STATE, ACTION]).findings == []


def test_an_action_that_is_no_vector_is_an_error(tmp_path):
    features = {STATE: VECTOR, ACTION: {"dtype": "float32", "shape": (2, 3), "names": None}}
    root = record(
        tmp_path / "d", features, lambda e, t: {STATE: wander(e, t), ACTION: np.ones((2, 3), np.float32)}
    )
    assert any("array of shape (2, 3)" in message for message in messages(root))
    with pytest.raises(UserError, match=r"action is an array of shape \(2, 3\)"):
        choose_observations(open_metadata("tests/odd", root), None)


def test_joints_are_compared_by_name(tmp_path):
    """The action's columns in another order are the same joints; other names are other joints, and said to be."""
    flipped = VECTOR | {"names": ["y", "x"]}
    wide = np.float32([100, 1])
    frame = {STATE: wide, ACTION: wide[::-1]}
    features = {STATE: VECTOR, ACTION: flipped}
    root = record(tmp_path / "flipped", features, lambda e, t: {k: v * (t + e) for k, v in frame.items()})
    assert [m for m in messages(root) if "spans" in m] == []
    assert any("another order: x, y" in message for message in messages(root))
    features = {STATE: VECTOR, ACTION: VECTOR | {"names": ["u", "v"]}}
    root = record(tmp_path / "others", features, lambda e, t: {k: v * (t + e) for k, v in frame.items()})
    assert [m for m in messages(root) if "spans" in m] == []
    assert any(
        "The action names u, v, the state in their place x, y" in message for message in messages(root)
    )


@pytest.mark.parametrize("width", [0, 1e-7, 1e-5])
def test_a_dimension_that_hardly_moves_is_named(tmp_path, width):
    def frame(episode: int, tick: int) -> dict:
        values = moving(episode, tick)
        return values | {STATE: np.float32([values[STATE][0], 0.5 + width * (tick % 2)])}

    root = record(tmp_path / "d", {STATE: VECTOR, ACTION: VECTOR}, frame)
    (message,) = [m for m in messages(root) if m.startswith(f"warning {STATE}: dimension 1 (y)")]
    assert ("nearly constant" in message) == bool(np.float32(0.5 + width) != 0.5)


def test_several_tasks_are_counted_and_those_with_few_episodes_are_named(tmp_path):
    features = {STATE: VECTOR, ACTION: VECTOR}
    root = record(tmp_path / "d", features, moving, task=lambda episode: ("open", "close")[episode % 2])
    assert any("fewer than 5 episodes: 'open' (2), 'close' (1)" in message for message in messages(root))
    examination = examine("tests/odd", root)
    assert examination.tasks == {"open": 24, "close": 12}
    assert examination.task_episodes == {"open": 2, "close": 1}
    assert messages(root, episodes=[0, 2]) == []


def jitter(root: Path, seconds: float) -> None:
    """Adds at most `seconds` to each time stamp."""
    (path,) = root.glob("data/*/*.parquet")
    table = pq.read_table(path)
    column = table.column_names.index("timestamp")
    stamps = table["timestamp"].to_numpy() + np.random.default_rng(0).uniform(0, seconds, len(table))
    new = stamps.astype(np.float32)
    pq.write_table(table.set_column(column, table.field(column), [new]), path)


def test_a_jittering_clock_is_a_warning_without_video(plain):
    jitter(plain, 0.02)
    found = messages(plain)
    assert len(found) == 1 and found[0].startswith("warning timestamp")


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> Path:
    """Three episodes in which neither state nor action moves; only the pictures differ."""
    camera = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    still = {STATE: np.zeros(2, np.float32), ACTION: np.zeros(2, np.float32)}
    features = {STATE: VECTOR, ACTION: VECTOR, CAMERA: camera}
    root = tmp_path_factory.mktemp("filmed") / "d"
    # Episodes 0 and 2 look the same, 1 does not.
    return record(
        root,
        features,
        lambda e, t: still | {CAMERA: np.full((64, 64, 3), 60 + 60 * (e % 2) + 5 * t, np.uint8)},
    )


def test_with_video_a_jittering_clock_needs_a_tolerance(filmed, tmp_path):
    root = Path(shutil.copytree(filmed, tmp_path / "d"))
    jitter(root, 0.02)
    features = [CAMERA, STATE, ACTION]
    (finding,) = examine("tests/odd", root).errors
    assert finding.feature == "timestamp" and "--set dataset.tolerance_s=0.02" in finding.remedy
    with pytest.raises(UserError, match=r"dataset\.tolerance_s"):
        Windows.from_lerobot("tests/odd", root, features=features, **DELTAS)
    suggested = float(finding.remedy.split("tolerance_s=")[1].split(". ")[0])
    assert not examine("tests/odd", root, tolerance_s=suggested).errors
    windows = Windows.from_lerobot("tests/odd", root, features=features, tolerance_s=suggested, **DELTAS)
    exact = Windows.from_lerobot("tests/odd", filmed, features=features, **DELTAS)
    rows = windows.episode_index.new_tensor(range(len(exact)))
    assert windows.batch(rows)[CAMERA].equal(exact.batch(rows)[CAMERA])


def test_copies_are_told_by_their_pictures_where_no_number_moves(filmed):
    found = [f for f in examine("tests/odd", filmed).findings if "The same as" in f.message]
    assert [(f.episode, f.message) for f in found] == [(2, "The same as episode 0.")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stats: stats.pop(CAMERA), "has no mean and std"),
        (lambda stats: stats[CAMERA].update(mean=[[[120.0]]] * 3, max=[[[255.0]]] * 3), r"in 0\.\.255"),
        (lambda stats: stats[CAMERA].update(mean=[[[0.9]]] * 3), "of a few pictures"),
        (lambda stats: stats[CAMERA].update(mean=[[[0.2]]]), "1 means for 3 channels"),
    ],
)
def test_camera_statistics_are_checked(filmed, tmp_path, change, words):
    root = Path(shutil.copytree(filmed, tmp_path / "d"))
    path = root / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    change(stats)
    path.write_text(json.dumps(stats))
    found = [f for f in examine("tests/odd", root).findings if f.feature == CAMERA]
    assert len(found) == 1
    assert words.replace("\\", "") in found[0].message
    assert "recompute_stats" in found[0].remedy


def test_a_camera_of_another_size_than_declared_is_an_error(filmed, tmp_path):
    root = Path(shutil.copytree(filmed, tmp_path / "d"))
    edit_info(root, lambda info: info["features"][CAMERA].update(shape=[480, 640, 3]))
    (finding,) = examine("tests/odd", root).errors
    assert "stored pictures are 64 x 64" in finding.message and "480 x 640" in finding.message
