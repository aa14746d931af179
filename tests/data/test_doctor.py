"""The doctor finds and names each fault that is put into a sound dataset, and none in the sound one."""

import re
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from rich.console import Console

from ebt_policy.data.doctor import Finding, examine, print_examination, print_findings
from ebt_policy.data.doctor.report import examination_json
from ebt_policy.errors import UserError

NAME = "tests/patient"
STATE, CAMERA = "observation.state", "observation.images.top"
LENGTHS = (20, 21, 22, 23, 24, 25)
OFFSET = dict(enumerate(np.cumsum([0, *LENGTHS])))  # episode -> its first row


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """Six episodes of a wandering state, an action ahead of it, and one camera; videos of two colours."""
    root = tmp_path_factory.mktemp("doctor") / "healthy"
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {STATE: vector, "action": vector, CAMERA: picture}
    dataset = LeRobotDataset.create(NAME, fps=10, root=root, features=features)
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        state = np.cumsum(rng.normal(size=(length + 1, 2)), axis=0).astype(np.float32)
        for tick in range(length):
            frame = {STATE: state[tick], "action": state[tick + 1], "task": "wander"}
            dataset.add_frame(frame | {CAMERA: np.full((64, 64, 3), 100 + 4 * tick, np.uint8)})
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture
def patient(healthy, tmp_path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(healthy, tmp_path / "patient"))


def rewrite(root: Path, change) -> None:
    """Let `change` edit the columns (name -> array) of the only table."""
    (path,) = root.glob("data/*/*.parquet")
    table = pq.read_table(path)
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    columns = change(columns) or columns
    arrays = [
        pa.array(
            list(columns[name]) if columns[name].ndim > 1 else columns[name], table.schema.field(name).type
        )
        for name in table.column_names
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=table.schema), path)


def put(name, episode, frame, value):
    """A change that sets one place; value may be a function of what is there."""

    def change(columns):
        row = OFFSET[episode] + frame
        columns[name][row] = value(columns[name][row]) if callable(value) else value

    return change


def set_column(name, value):
    def change(columns):
        columns[name] = value(columns[name])

    return change


def drop_row(episode, frame):
    return lambda columns: {k: np.delete(v, OFFSET[episode] + frame, axis=0) for k, v in columns.items()}


def copy_episode(source, target):
    """The target's features become the source's, as far as they go: both get the source's length."""

    def change(columns):
        rows = slice(OFFSET[source], OFFSET[source] + LENGTHS[source])
        keep = np.ones(len(columns["index"]), bool)
        keep[OFFSET[target] + LENGTHS[source] : OFFSET[target] + LENGTHS[target]] = False
        for name in (STATE, "action"):
            columns[name][OFFSET[target] : OFFSET[target] + LENGTHS[source]] = columns[name][rows]
        return {name: values[keep] for name, values in columns.items()}

    return change


def doctor(*arguments, **options) -> list[Finding]:
    return examine(*arguments, **options).findings


def places(findings: list[Finding], severity: str) -> set[tuple]:
    return {(f.feature, f.episode, f.frame) for f in findings if f.severity == severity}


def test_sound_data_has_no_findings(healthy):
    assert doctor(NAME, healthy) == []


def test_pusht_keypoints_has_no_errors(pusht_keypoints):
    assert places(doctor(*pusht_keypoints), "error") == set()


@pytest.mark.parametrize(
    ("change", "severity", "place", "words"),
    [
        (put(STATE, 1, 4, [np.nan, 0]), "error", (STATE, 1, 4), r"dimension 0 \(x\) is NaN \(1 frame in"),
        (put("action", 5, 0, [0, -np.inf]), "error", ("action", 5, 0), r"dimension 1 \(y\) is infinite"),
        (
            set_column(STATE, lambda x: x * [1, 0] + [0, 3]),
            "warning",
            (STATE, None, None),
            "is 3 in every frame",
        ),
        (put("timestamp", 2, 7, lambda t: t + 0.05), "error", ("timestamp", 2, 7), r"0\.1500 s after"),
        (drop_row(3, 5), "error", ("timestamp", 3, 6), r"0\.2000 s after"),
        (drop_row(3, 5), "error", ("frame_index", 3, 6), "count up"),
        (drop_row(3, 5), "error", ("data", 3, None), "22 rows, the metadata says 23"),
        (set_column("action", lambda a: a * 0.01), "warning", ("action", None, None), "spans"),
        (set_column("action", lambda a: a + 1000), "warning", ("action", None, None), "spans"),
        (put(STATE, 4, 9, [900, 0]), "warning", (STATE, 4, 9), "is 900; 98 %"),
        (put(STATE, 4, 9, [900, 0]), "warning", (STATE, 4, 9), r"leaves the range in meta/stats\.json"),
        (copy_episode(0, 2), "warning", ("episode", 2, 0), "The same as episode 0"),
    ],
)
def test_a_fault_in_the_table_is_named(patient, change, severity, place, words):
    rewrite(patient, change)
    found = [f for f in doctor(NAME, patient) if (f.feature, f.episode, f.frame) == place]
    matching = [f for f in found if f.severity == severity]
    assert matching, doctor(NAME, patient)
    assert any(re.search(words, f.message) for f in matching), matching
    assert all(f.remedy for f in matching)


def test_a_copy_across_the_split_is_an_error(patient):
    rewrite(patient, copy_episode(0, 2))
    assert ("split", 2, 0) in places(doctor(NAME, patient, held_out=[2, 3]), "error")
    assert ("split", 2, 0) not in places(doctor(NAME, patient, held_out=[0, 2]), "error")


def test_only_the_chosen_episodes_are_looked_at(patient):
    rewrite(patient, put(STATE, 1, 4, [np.nan, 0]))
    assert doctor(NAME, patient, episodes=[0, 2, 3]) == []


def test_an_episode_of_another_length_is_named(tmp_path):
    vector = {"dtype": "float32", "shape": (1,), "names": None}
    dataset = LeRobotDataset.create(
        NAME, fps=10, root=tmp_path / "d", features={STATE: vector, "action": vector}
    )
    for length in (30, 31, 29, 32, 400, 33):
        for tick in range(length):
            value = np.float32([np.sin(tick + length)])
            dataset.add_frame({STATE: value, "action": value, "task": "swing"})
        dataset.save_episode()
    dataset.finalize()
    (finding,) = doctor(NAME, tmp_path / "d")
    assert (finding.feature, finding.episode, finding.severity) == ("episode length", 4, "warning")
    assert "400 frames" in finding.message


def test_videos_missing_broken_or_short_are_named(patient):
    (video,) = patient.glob("videos/*/*/*.mp4")
    whole = video.read_bytes()
    video.unlink()
    assert places(doctor(NAME, patient), "error") == {(CAMERA, 0, None)}
    video.write_bytes(whole[: len(whole) // 3])
    (finding,) = doctor(NAME, patient)
    assert finding.feature == CAMERA
    video.write_bytes(whole)
    (episodes,) = patient.glob("meta/episodes/*/*.parquet")
    table = pq.read_table(episodes)
    column = f"videos/{CAMERA}/to_timestamp"
    late = pa.array([end + 5 for end in table[column].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index(column), column, late), episodes)
    (finding,) = doctor(NAME, patient)
    assert (finding.feature, finding.episode) == (CAMERA, len(LENGTHS) - 1)
    assert "no picture at 18.40 s" in finding.message


def test_a_missing_table_is_named(patient):
    for path in patient.glob("data/*/*.parquet"):
        path.unlink()
    assert ("data", 0, None) in places(doctor(NAME, patient), "error")


def test_no_dataset_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="holds no LeRobot dataset"):
        doctor(NAME, tmp_path)


def test_the_report_shows_place_and_remedy():
    out = StringIO()
    console = Console(file=out, width=100)
    print_findings([Finding("error", "action", 3, 7, "is [red]NaN", "Leave it out.")], console)
    print_findings([], console)
    for words in (
        "action",
        "episode 3",
        "frame 7",
        "is [red]NaN",
        "Leave it out.",
        "1 error, 0 warnings",
        "No faults",
    ):
        assert words in out.getvalue()


def test_the_report_says_what_was_read_and_checked_and_cuts_no_path(patient):
    (video,) = patient.glob("videos/*/*/*.mp4")
    video.unlink()
    out = StringIO()
    examination = examine(NAME, patient)
    print_examination(examination, Console(file=out, width=40))
    frames = sum(LENGTHS)
    assert (examination.episodes, examination.frames) == (6, frames)
    assert f"6 episodes, {frames} frames at 10 Hz: {frames / 10:.1f} s" in out.getvalue()
    for words in (f"{CAMERA}: 64 x 64, video", f"{STATE}: 2: x, y", "wander", "time stamps", str(video)):
        assert words in out.getvalue()
    assert examination_json(examination)["findings"][0]["message"] == f"{video} is missing."
