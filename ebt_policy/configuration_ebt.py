"""EBTConfig: every hyper-parameter of the energy-based transformer policy."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from ebt_policy.configuration_chunk import ChunkPolicyConfig

HEADS = ("residual", "scalar", "dot")
OBJECTIVES = ("denoise", "matching", "unrolled", "two_step")
STARTS = ("zero", "noise", "warm")


@PreTrainedConfig.register_subclass("ebt")
@dataclass
class EBTConfig(ChunkPolicyConfig):
    """Energy, objective and descent. Chunks are normalised to [-1, 1]; energies are in squared normalised units."""

    head: str = "residual"
    objective: str = "denoise"

    # denoise / matching: the input is g a + (1 - g) eps, g in [0, 1]; a share starts from the zero chunk instead.
    # Plain weights with half zero starts learn faster and end worse: D becomes a regression that ignores its chunk.
    zero_start_share: float = 0.0
    noise_power: float = 1.0  # g = 1 - (1 - u)^power with u uniform: above 1 puts more weight on little noise
    # Weight of a noised start: "uniform", or "flow": flow matching's 1 / ((1 - g)^2 + 0.05), scaled to mean 1.
    noise_weighting: str = "flow"
    matching_target: str = "linear"  # "linear": (1 - g)(eps - a); "truncated": EqM's, arXiv 2510.02300
    # unrolled: the recipe of EBT-Policy (arXiv 2510.27545), each repair of its published code switchable.
    unrolled_steps: int = 6
    unrolled_extra_steps: int = 4
    unrolled_step_size: float = 1.0
    unrolled_momentum: float = 0.9
    unrolled_langevin: tuple[float, float] = (0.2, 0.002)
    unrolled_normalise_input: bool = True
    unrolled_energy_scaled_step: bool = True
    unrolled_temperature: float = 1.0
    unrolled_every_step_loss: bool = True
    # two_step: fine-tune so that two evaluations land where the model's own many-step descent does.
    teacher_steps: int = 10
    # A pretrained_model folder: the frozen teacher. None: the policy as it is at the first batch, which after a resume
    # is the resumed one.
    teacher_path: str | None = None
    # verifier: weight of the InfoNCE term (0 = off), its negatives and temperature.
    verifier_weight: float = 0.0
    verifier_negatives: int = 8
    verifier_temperature: float = 0.1

    # Descent.
    # warm: the previous chunk, shifted to now and half noise; the first decision of an episode starts from noise.
    start: str = "warm"
    warm_start_share: float = 0.5  # start = share * previous chunk, shifted + (1 - share) * noise
    starts: int = 1  # descents from different starts, in parallel; the lowest energy wins
    # A step goes this part of the way to the proposal D(x, o). None: such that the last evaluation of the budget sees
    # `last_noise`, whatever the budget (from a warm start .7 for two evaluations, .45 for three).
    step_size: float | None = None
    relaxation: float | None = None  # the former name of step_size, for saved configs; None once it is read
    last_noise: float = 0.15
    gradient_step_size: float = (
        1.0  # for heads without a proposal; energies are sums, so the natural size is 1
    )
    max_evaluations: int = 2
    min_evaluations: int = 2
    stop_residual: float | None = None  # RMS of the proposed move, normalised units
    stop_settled: float | None = (
        None  # RMS change of the answer from one evaluation to the next, normalised units
    )
    stop_relative_energy: float | None = None  # stop when a step lowers the energy by less than this part
    stop_energy: float | None = None  # stop when the energy is at most this, squared normalised units
    deadline_s: float | None = None  # wall-clock seconds for one decision

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relaxation is not None:
            self.step_size, self.relaxation = self.relaxation, None
        for name, value, allowed in (
            ("head", self.head, HEADS),
            ("objective", self.objective, OBJECTIVES),
            ("start", self.start, STARTS),
            ("noise_weighting", self.noise_weighting, ("uniform", "flow")),
            ("matching_target", self.matching_target, ("linear", "truncated")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, found {value!r}.")
        if self.head != "residual" and self.objective in ("denoise", "two_step"):
            raise ValueError(
                f"objective {self.objective!r} trains D(x, o) itself and needs head='residual', found "
                f"{self.head!r}; use objective='matching' or 'unrolled'."
            )
        if not 0 < self.last_noise < 1:
            raise ValueError(f"last_noise must lie between 0 and 1, found {self.last_noise}.")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1, found {self.max_evaluations}.")
        if self.starts > 1 and self.start == "zero":
            raise ValueError(
                "starts > 1 needs start='noise' or 'warm': from the zero chunk all starts are equal."
            )

    @property
    def start_noise(self) -> float:
        """Share of noise in the chunk that descent starts from, once there is a previous one."""
        return 1 - self.warm_start_share if self.start == "warm" else 1.0
