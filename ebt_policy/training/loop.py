"""One optimiser step of training, and the loss on held-out episodes."""

import time
import warnings
from collections.abc import Callable

import torch
from accelerate import Accelerator
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.random_utils import seeded_context
from torch import Tensor, nn

from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.data.windows import Windows
from ebt_policy.training.checkpoint import Trainer
from ebt_policy.training.corrections import Mixture, batch_order
from ebt_policy.training.image_transforms import batch_transforms
from ebt_policy.training.optimise import WeightAverage
from ebt_policy.training.recipe import TrainRecipe

HELD_OUT_SAMPLES = 4096  # at most, evenly spaced: enough for two digits of the loss
Batch = dict[str, Tensor]
LossFunction = Callable[[Batch], tuple[Tensor, dict | None]]


class Loop:
    """One training step after another, and the held-out loss of the averaged policy."""

    def __init__(
        self,
        recipe: TrainRecipe,
        trainer: Trainer,
        accelerator: Accelerator,
        preprocessor: PolicyProcessorPipeline,
        windows: Windows | Mixture,
        held_out: Windows | None,
    ) -> None:
        self.recipe, self.trainer, self.accelerator = recipe, trainer, accelerator
        self.preprocessor, self.windows, self.held_out = preprocessor, windows, held_out
        self.weights = WeightAverage(trainer.average, trainer.policy, recipe.ema_decay)
        self.cameras = windows.cameras
        self.transforms = batch_transforms(recipe.dataset.image_transforms, self.cameras)
        self.told = bool(getattr(trainer.policy.config, "task_sentences", None))  # its task, by a sentence
        self.lr = 0.0  # of the last step
        self.bf16 = uses_bf16(recipe, accelerator.device, bool(trainer.policy.config.image_features))
        self.parameters = [p for p in trainer.policy.parameters() if p.requires_grad]
        trainer.policy.train()
        self.eager = accelerator.prepare_model(_Loss(trainer.policy))
        compiles = getattr(trainer.policy, "loss_compiles", True)
        self.loss = _compiled(self.eager) if recipe.compile and compiles else self.eager

    def step(self) -> dict[str, float | Tensor]:
        """One optimiser step. Returns what to log, nothing where the step was skipped (see `SpikeGuard`)."""
        began = time.perf_counter()
        recipe, trainer = self.recipe, self.trainer
        order = batch_order(self.windows, trainer.step, recipe.batch_size, recipe.seed, self.told)
        batch = self._batch(
            self.windows, order[self.accelerator.process_index :: self.accelerator.num_processes]
        )
        with self._autocast():
            loss, metrics = self.loss(batch)
        self.accelerator.backward(loss)
        grad_norm = float(nn.utils.clip_grad_norm_(self.parameters, recipe.grad_clip, foreach=True))
        loss_value = torch.as_tensor(self.accelerator.reduce(loss.detach(), "mean")).item()
        self.lr = float(trainer.scheduler.get_last_lr()[0])
        accepted = trainer.guard.accepts(loss_value, grad_norm)
        if accepted:
            trainer.optimizer.step()
            self.weights.update(trainer.step - trainer.guard.skipped)
            update = getattr(trainer.policy, "update", None)  # LeRobot's hook after each step
            if callable(update):
                update()
        trainer.optimizer.zero_grad()
        trainer.scheduler.step()
        trainer.step += 1
        trainer.seconds += time.perf_counter() - began
        return {"loss": loss_value, "grad_norm": grad_norm, **(metrics or {})} if accepted else {}

    def held_out_loss(self) -> float:
        """Loss of the averaged policy on held-out episodes, with the same noise every time."""
        assert self.held_out is not None
        n = len(self.held_out)
        numbers = (
            torch.arange(n) if n <= HELD_OUT_SAMPLES else torch.linspace(0, n - 1, HELD_OUT_SAMPLES).long()
        )
        loss_of, total = _Loss(self.trainer.average), 0.0
        with seeded_context(self.recipe.seed), torch.no_grad(), self._autocast():
            for part in numbers.split(self.recipe.batch_size):
                total += loss_of(self._batch(self.held_out, part))[0].item() * len(part)
        return total / len(numbers)

    def _batch(self, windows: Windows | Mixture, indices: Tensor) -> Batch:
        samples = windows.samples(indices)
        if self.transforms is not None and windows is not self.held_out:
            samples = self.transforms(samples, self.cameras)
        batch = self.preprocessor(samples)
        return {key: value for key, value in batch.items() if isinstance(value, Tensor)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)


def uses_bf16(recipe: TrainRecipe, device: torch.device, cameras: bool) -> bool:
    """Whether the forward pass is in bf16, or in fp32 (see `TrainRecipe.precision`). cameras: whether the policy has any."""
    if recipe.precision == "auto":
        if device.type != "cpu":
            return True
        # Without AVX-512 torch emulates bf16, about ten times slower than fp32 even for matrix products. Convolutions also need
        # the processor's own bf16 instructions; torch says so in a function that older versions lack.
        has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and (not cameras or has_bf16())
    return recipe.precision == "bf16"


class _Loss(nn.Module):
    """batch -> (loss, metrics). Our own policies' `loss` is their `forward`, but it compiles as one graph."""

    def __init__(self, policy: PreTrainedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch) -> tuple[Tensor, dict | None]:
        return self.policy.loss(batch) if isinstance(self.policy, ChunkPolicy) else self.policy(batch)


def _compiled(module: nn.Module) -> LossFunction:
    """The compiled module. If the first batch does not compile (for example without a C++ compiler), it is used uncompiled."""
    chosen: LossFunction | None = None

    def call(batch: Batch) -> tuple[Tensor, dict | None]:
        nonlocal chosen
        if chosen is None:
            # Compiled kernels contain their number of threads; as an option it becomes part of the compiler's cache key.
            chosen = torch.compile(module, options={"cpp.threads": torch.get_num_threads()})
            try:
                return chosen(batch)
            # The compiler may raise anything; an error of the policy itself is raised again below.
            except Exception as error:
                chosen = module
                cause = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
                warnings.warn(f"Training goes on without compilation. {cause}", stacklevel=2)
        return chosen(batch)

    return call
