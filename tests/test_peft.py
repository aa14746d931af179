"""LoRA through LeRobot's own entry point, with no other option than the method."""

import pytest
import torch

from ebt_policy.inference.runner import load_runner

pytest.importorskip("peft")


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline"])
def test_bare_lora_trains_adapters_alone_and_starts_from_the_same_policy(checkpoint, kind):
    policy = load_runner(checkpoint(kind)).policy
    policy.config.pretrained_path = checkpoint(kind)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    sizes = {"observation.state": 2, "observation.environment_state": 16}
    batch = {name: torch.rand(3, policy.config.n_obs_steps, size) for name, size in sizes.items()}
    batch["action"] = torch.rand(3, policy.config.horizon, 2)

    def loss(model) -> torch.Tensor:
        torch.manual_seed(0)
        return model(batch)[0]

    plain = loss(policy).item()
    tuned = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})
    assert loss(tuned).item() == pytest.approx(plain, rel=1e-5)

    optimizer = torch.optim.AdamW(tuned.get_optim_params(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        loss(tuned).backward()
        optimizer.step()
    assert loss(tuned).item() < plain
    trained = {name for name, value in tuned.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    after = tuned.get_base_model().state_dict()
    for name, value in before.items():
        head, _, tail = name.rpartition(".")
        same = after.get(name, after.get(f"{head}.base_layer.{tail}"))
        assert torch.equal(same, value), name
