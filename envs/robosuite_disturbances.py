"""The disturbances of robosuite's tasks, by body name. Regions are those in which robosuite places the objects."""

from __future__ import annotations

from ebt_policy.envs.disturbance_spec import DisturbanceSpec, Region

_ON_TABLE: Region = (-0.25, 0.25, -0.3, 0.3)
_IN_BIN: Region = (-0.07, 0.27, -0.47, -0.03)


def _disturbances(
    regions: dict[str, Region],
    workspace: Region = _ON_TABLE,
    targets: tuple[str, ...] = (),
    no_target: str = "",
    noise: tuple[float, ...] | None = None,
    start_margin: float = 0.04,
) -> DisturbanceSpec:
    """noise: None if the environment state is the poses of all objects in `regions`. no_target: why there is no target."""
    return DisturbanceSpec(
        regions=regions,
        workspace=workspace,
        targets=targets,
        shift=0.06,
        turn=0.5,
        start_margin=start_margin,
        noise=noise or _poses(len(regions)),
        absolute_actions=False,
        grippers=(6,),
        open_gripper=-1.0,
        refused={} if targets else {"target": no_target},
    )


def _poses(objects: int) -> tuple[float, ...]:
    """Standard deviations for positions (m) and quaternions of so many objects."""
    return (*[0.01] * 3, *[0.02] * 4) * objects


def _bin(*objects: str) -> DisturbanceSpec:
    # robosuite keeps 5 cm plus an object's radius from the walls. We enlarge its region by 3 cm only.
    region = (-0.02, 0.22, -0.42, -0.08)
    reason = "robosuite's success check does not follow a bin that is moved"
    return _disturbances(dict.fromkeys(objects, region), _IN_BIN, no_target=reason, start_margin=0.03)


_SQUARE = {"SquareNut_main": (-0.115, -0.11, 0.11, 0.225)}
_ROUND = {"RoundNut_main": (-0.115, -0.11, -0.225, -0.11)}
DISTURBANCES = {
    "Lift": _disturbances({"cube_main": (-0.03, 0.03, -0.03, 0.03)}, no_target="the task has no target"),
    "Stack": _disturbances(
        {"cubeA_main": (-0.08, 0.08, -0.08, 0.08)}, targets=("cubeB_main",), noise=_poses(2)
    ),
    "PickPlaceCan": _bin("Can_main"),
    "NutAssemblySquare": _disturbances(_SQUARE, targets=("peg1",)),
    "NutAssembly": _disturbances(_SQUARE | _ROUND, targets=("peg1", "peg2")),
    "PickPlace": _bin("Milk_main", "Bread_main", "Cereal_main", "Can_main"),
    "Door": _disturbances(
        {"Door_main": (-0.13, -0.11, -0.36, -0.34)},
        (-0.22, -0.02, -0.45, -0.25),
        no_target="the task has no target",
        noise=(0.01,) * 6 + (0.02,) * 2,  # two positions (m), hinge and handle (rad)
    ),
    "ToolHang": _disturbances(
        {"frame_root": (-0.06, -0.02, -0.26, -0.22), "tool_root": (0.02, 0.06, -0.22, -0.18)},
        targets=("stand_root",),
        noise=_poses(3),
    ),
}
