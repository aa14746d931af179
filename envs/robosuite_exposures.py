"""What can befall robosuite's tasks. Regions are those that it places objects in; these go by their bodies' names."""

from __future__ import annotations

from ebt_policy.envs.disturbances.exposure import Exposure, Region

_ON_TABLE: Region = (-0.25, 0.25, -0.3, 0.3)
_IN_BIN: Region = (-0.07, 0.27, -0.47, -0.03)


def _exposure(
    regions: dict[str, Region],
    workspace: Region = _ON_TABLE,
    targets: tuple[str, ...] = (),
    no_target: str = "",
    noise: tuple[float, ...] | None = None,
    beyond: float = 0.04,
) -> Exposure:
    """noise: None where the poses of all in `regions` are observed. no_target: why there is no target."""
    return Exposure(
        regions=regions,
        workspace=workspace,
        targets=targets,
        shift=0.06,
        turn=0.5,
        beyond=beyond,
        noise=noise or _poses(len(regions)),
        absolute=False,
        grippers=(6,),
        open_gripper=-1.0,
        refused={} if targets else {"target": no_target},
    )


def _poses(objects: int) -> tuple[float, ...]:
    """Noise of positions (m) and quaternions."""
    return (*[0.01] * 3, *[0.02] * 4) * objects


def _bin(*objects: str) -> Exposure:
    # robosuite keeps 5 cm and an object's radius from the walls; there is room for three of them.
    region = (-0.02, 0.22, -0.42, -0.08)
    reason = "robosuite's test of success does not follow a bin that is moved"
    return _exposure(dict.fromkeys(objects, region), _IN_BIN, no_target=reason, beyond=0.03)


_SQUARE = {"SquareNut_main": (-0.115, -0.11, 0.11, 0.225)}
_ROUND = {"RoundNut_main": (-0.115, -0.11, -0.225, -0.11)}
EXPOSURES = {
    "Lift": _exposure({"cube_main": (-0.03, 0.03, -0.03, 0.03)}, no_target="the cube only has to be lifted"),
    "Stack": _exposure({"cubeA_main": (-0.08, 0.08, -0.08, 0.08)}, targets=("cubeB_main",), noise=_poses(2)),
    "PickPlaceCan": _bin("Can_main"),
    "NutAssemblySquare": _exposure(_SQUARE, targets=("peg1",)),
    "NutAssembly": _exposure(_SQUARE | _ROUND, targets=("peg1", "peg2")),
    "PickPlace": _bin("Milk_main", "Bread_main", "Cereal_main", "Can_main"),
    "Door": _exposure(
        {"Door_main": (-0.13, -0.11, -0.36, -0.34)},
        (-0.22, -0.02, -0.45, -0.25),
        no_target="there is nowhere that the door has to be brought to",
        noise=(0.01,) * 6 + (0.02,) * 2,  # two positions (m), hinge and handle (rad)
    ),
    "ToolHang": _exposure(
        {"frame_root": (-0.06, -0.02, -0.26, -0.22), "tool_root": (0.02, 0.06, -0.22, -0.18)},
        targets=("stand_root",),
        noise=_poses(3),
    ),
}
