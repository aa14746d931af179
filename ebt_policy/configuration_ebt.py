"""EBTConfig: every hyper-parameter of the energy-based transformer policy."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.configs.policies import PreTrainedConfig

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.former_options import FormerOptions

HEADS = ("residual", "scalar")
OBJECTIVES = ("denoise", "matching", "unrolled")
STARTS = ("zero", "noise", "warm")


@PreTrainedConfig.register_subclass("ebt")
@dataclass
class EBTConfig(FormerOptions, ChunkPolicyConfig):
    """Energy, objective and descent. Chunks are normalised to [-1, 1]; energies are in squared normalised action units, summed
    over the chunk. The text of each option begins with its unit; the documentation and `--help` show it.
    """

    head: str = "residual"
    """[name] How the network gives an energy. residual: half the squared change that the denoiser D(x, o) makes to the
    chunk; scalar: one output. Residual needs no autograd to act."""
    objective: str = "denoise"
    """[name] What is trained: denoise, matching or unrolled. Denoise costs what a diffusion policy costs; docs/results/pusht_keypoints.md
    compares them."""

    noise_levels: tuple[float, float] | None = None
    """[normalised action units: lowest, highest] Training adds noise, x = a + s eps, s between these. None: the
    interpolation x = g a + (1 - g) eps, down to no noise. The PushT recipes have [0.15, 2]: with a lowest level, minimising the
    energy for longer does not drift away. Where actions must be finer than it, the policy fails: Adroit Door .84 -> .18."""

    unrolled_steps: int = 6
    """[steps] Descent steps of objective=unrolled, the recipe of EBT-Policy (arXiv 2510.27545)."""
    unrolled_extra_steps: int = 4
    """[steps] Up to so many more, drawn for each batch, so that the policy does not depend on one number of steps."""
    unrolled_step_size: float = 1.0
    """[step per gradient] Size of a descent step. The energy is a sum over the chunk, so its natural size is near 1."""
    unrolled_momentum: float = 0.9
    """[factor] Nesterov momentum of the descent, as in the paper."""
    unrolled_langevin: tuple[float, float] = (0.2, 0.002)
    """[normalised action units] Noise added at the first and at the last step; a cosine between them, as in the paper."""
    unrolled_temperature: float | None = 1.0
    """[energy per action entry] Steps grow with the energy, as in the paper: by exp(energy / temperature), limited. None: they
    do not."""

    start: str = "warm"
    """[name] Where planning starts. warm: the previous chunk, shifted to now, and noise (the first decision of an episode
    starts from noise); noise; zero. Warm succeeded most often with two evaluations. objective=unrolled also trains from such a start: warm, the
    demonstration with a random share of noise; noise, as published."""
    warm_start_share: float = 0.5
    """[share] Start = share * previous chunk + (1 - share) * noise. Keeps the chosen way without copying the old plan."""
    descends: str = "denoiser"
    """[name] What a step of the residual head follows: denoiser, D(x, o) - x, or gradient, minus the gradient of the energy,
    which costs a backward pass more."""
    step_size: float | None = None
    """[share of the way] How far a step goes to the denoiser's answer D(x, o), or along minus the gradient; the last one goes all
    of it. None: so that from a warm start one step leaves last_noise (.82); without noise_levels, so that the steps of the
    budget do; head=scalar: 1, since energies are sums over the chunk."""
    last_noise: float = 0.15
    """[share] Noise that is left at the last evaluation. About .13 was best for two and for three evaluations."""
    max_evaluations: int = 2
    """[evaluations] Most network evaluations of one decision. Two get most of the success of eight on PushT."""
    min_evaluations: int = 2
    """[evaluations] No stopping rule fires before so many."""
    stop_settled: float | None = None
    """[normalised action units] Stop when the RMS change of the answer since the last evaluation is below this. .03 is the
    adaptive row of docs/results/pusht_keypoints.md. None: rule off."""
    stop_energy: float | None = None
    """[energy] Stop where the energy of the last plan under the present observation is at most this: what was planned is still
    right. `deploy --policy.stop=energy` takes it from a calibration. None: rule off."""
    deadline_s: float | None = None
    """[seconds] Wall-clock limit of one decision. None: no limit."""

    rtc_config: ClassVar[Any] = None
    """LeRobot's RTCConfig; `lerobot-rollout --inference.type=rtc` sets it on the loaded policy. Not saved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read_former_options()
        if self.objective == "matching":  # it teaches the gradient and leaves D(x, o) untrained
            self.descends = "gradient"
        if self.objective == "unrolled":  # its noise has unit scale
            self.noise_levels = None
        if self.noise_levels is not None and not 0 <= self.noise_levels[0] < self.noise_levels[1]:
            raise ValueError(
                f"noise_levels must be two numbers, 0 <= lowest < highest, found {self.noise_levels}."
            )
        for name, value, allowed in (
            ("head", self.head, HEADS),
            ("objective", self.objective, OBJECTIVES),
            ("start", self.start, STARTS),
            ("descends", self.descends, ("denoiser", "gradient")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, found {value!r}.")
        if self.head != "residual" and self.objective == "denoise":
            raise ValueError(
                f"objective {self.objective!r} trains D(x, o) itself and needs head='residual', found "
                f"{self.head!r}; use objective='matching' or 'unrolled'."
            )
        if self.start == "warm" and not 0 < self.warm_start_share <= 1:
            raise ValueError(
                f"warm_start_share must be above 0 and at most 1, found {self.warm_start_share}; start='noise' uses no "
                "previous chunk."
            )
        if not 0 < self.last_noise < 1:
            raise ValueError(f"last_noise must lie between 0 and 1, found {self.last_noise}.")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations must be at least 1, found {self.max_evaluations}.")

    @property
    def noise_shares(self) -> tuple[float, float]:
        """Lowest and highest share of noise in training, s / (1 + s) for noise_levels s."""
        if self.noise_levels is None:
            return 0.0, 1.0
        low, high = self.noise_levels
        return low / (1 + low), high / (1 + high)

    @property
    def start_noise(self) -> float:
        """Share of noise in the chunk that descent starts from, once there is a previous one."""
        return 1 - self.warm_start_share if self.start == "warm" else self.noise_shares[1]
