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
    """Energy, objective and descent. Chunks are normalised to [-1, 1]; energies are in squared normalised action units, summed
    over the chunk. The text of each option begins with its unit; the documentation and `--help` show it.
    """

    head: str = "residual"
    """[name] How the network gives an energy. residual: half the squared change that the denoiser D(x, o) makes to the
    chunk; scalar: one output; dot: product of chunk and output. Residual needs no autograd to act."""
    objective: str = "denoise"
    """[name] What is trained: denoise, matching, unrolled or two_step. Denoise costs what a diffusion policy costs;
    docs/results.md compares them."""

    zero_start_share: float = 0.0
    """[share of a batch] Samples that start from the zero chunk instead of a noised one. Half of them learn faster and end
    worse: D becomes a regression that ignores its chunk."""
    noise_power: float = 1.0
    """[exponent] The part of the chunk that is kept is g = 1 - (1 - u)^power, u uniform. Above 1 there is more training on
    little noise."""
    noise_levels: tuple[float, float] | None = None
    """[normalised action units: lowest, highest] Noise in training is added, x = a + s eps, with s between these. The lowest
    level is the width of the energy's valley. None: the interpolation x = g a + (1 - g) eps, for policies trained before."""
    iterates: int = 0
    """[steps] Objective denoise: half of each batch takes one own step from its noised chunk before the loss, half of that
    two, and so on, up to this many. Thinking longer then does not drift away; two evaluations lose some success
    (docs/experiments.md)."""
    curl_weight: float = 0.0
    """[weight] Objective denoise: penalty that turns the denoiser's step towards minus the gradient of the energy. 0: off."""
    noise_weighting: str = "flow"
    """[name] Loss weight by noise level: uniform, or flow, which is flow matching's 1 / ((1 - g)^2 + 0.05) scaled to mean 1.
    Flow learns more slowly and ends better (docs/experiments.md)."""
    matching_target: str = "linear"
    """[name] Gradient that objective=matching learns. linear: (1 - g)(eps - a); truncated: that of Equilibrium Matching,
    arXiv 2510.02300."""

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
    unrolled_normalise_input: bool = True
    """[yes or no] Normalise the chunk of each sample before every step, where the published code does it over the batch."""
    unrolled_energy_scaled_step: bool = True
    """[yes or no] Steps grow with the energy, as in the paper."""
    unrolled_temperature: float = 1.0
    """[energy per action entry] How fast they grow: the step is multiplied by exp(energy / temperature), limited."""
    unrolled_every_step_loss: bool = True
    """[yes or no] Compare every step with the expert's chunk, or only the last one."""

    teacher_steps: int = 10
    """[evaluations] Descent of the teacher of objective=two_step: two evaluations learn to land where it does."""
    teacher_path: str | None = None
    """[folder] A pretrained_model folder with the frozen teacher. None: the policy as it is at the first batch (after a
    resume: the resumed one)."""

    verifier_weight: float = 0.0
    """[factor] Weight of an InfoNCE loss between expert and corrupted chunks, added to any objective. 0 is off: it costs
    evaluations, and what it gains has not been measured."""
    verifier_negatives: int = 8
    """[chunks] Corrupted chunks for each expert chunk."""
    verifier_temperature: float = 0.1
    """[energy] Temperature of its softmax."""

    start: str = "warm"
    """[name] Where planning starts. warm: the previous chunk, shifted to now, and noise (the first decision of an episode
    starts from noise); noise; zero. Warm succeeded most often with two evaluations."""
    warm_start_share: float = 0.5
    """[share] Start = share * previous chunk + (1 - share) * noise. Keeps the chosen way without copying the old plan."""
    starts: int = 1
    """[chunks] Different starts, refined in parallel; the lowest energy wins. Each costs as much as one."""
    descends: str = "denoiser"
    """[name] What a step of the residual head follows: denoiser, D(x, o) - x, or gradient, minus the gradient of the energy,
    which costs a backward pass more."""
    step_size: float | None = None
    """[share of the way] How far a step goes to the denoiser's answer D(x, o). None: so that the last evaluation sees
    last_noise, whatever the budget (from a warm start .7 for two evaluations, .45 for three)."""
    relaxation: float | None = None
    """[share of the way] The former name of step_size, for saved configs; None once it is read."""
    last_noise: float = 0.15
    """[share] Noise that is left at the last evaluation. About .13 was best for two and for three evaluations."""
    gradient_step_size: float = 1.0
    """[step per gradient] Step size of the heads scalar and dot. Energies are sums over the chunk, so 1 is natural."""
    max_evaluations: int = 2
    """[evaluations] Most network evaluations of one decision. Two get most of the success of eight on PushT."""
    min_evaluations: int = 2
    """[evaluations] No stopping rule fires before so many."""
    stop_residual: float | None = None
    """[normalised action units] Stop when the RMS change that the denoiser still makes is below this. None: rule off."""
    stop_settled: float | None = None
    """[normalised action units] Stop when the RMS change of the answer since the last evaluation is below this. .03 is the
    adaptive row of docs/results.md. None: rule off."""
    stop_relative_energy: float | None = None
    """[share] Stop when a step lowers the energy by less than this share. None: rule off."""
    stop_energy: float | None = None
    """[energy] Stop when the energy is at most this. None: rule off."""
    deadline_s: float | None = None
    """[seconds] Wall-clock limit of one decision. None: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relaxation is not None:
            self.step_size, self.relaxation = self.relaxation, None
        for name, value, allowed in (
            ("head", self.head, HEADS),
            ("objective", self.objective, OBJECTIVES),
            ("start", self.start, STARTS),
            ("descends", self.descends, ("denoiser", "gradient")),
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
        if self.start == "warm":
            return 1 - self.warm_start_share
        return 1.0 if self.noise_levels is None else self.noise_levels[1] / (1 + self.noise_levels[1])
