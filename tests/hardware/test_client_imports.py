"""The client of a policy server runs without torch and LeRobot."""

import subprocess
import sys

ARM_SIDE = (
    "remote.client",
    "remote.wire",
    "remote.contract",
    "remote.link",
    "safety.filter",
    "safety.limits",
)
ABSENT = ("torch", "lerobot", "torchvision", "cv2", "gymnasium", "scipy", "typing_extensions")


def test_the_client_and_the_safety_filter_need_neither_torch_nor_lerobot():
    """With those packages made impossible to import, as on a small computer beside the arm."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        + "".join(f"import ebt_policy.hardware.{name}\n" for name in ARM_SIDE)
        + "import importlib.metadata as m\n"
        "tops = {name.partition('.')[0] for name, loaded in sys.modules.items() if loaded}\n"
        "owners = m.packages_distributions()\n"
        "print(sorted({d for t in tops - {'ebt_policy'} if not t.startswith('_') for d in owners.get(t, [])}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['msgspec', 'numpy', 'websockets']"
