"""Options shared by every policy that predicts an action chunk with our trunk."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import DiffuserSchedulerConfig

SMALLEST_CROP = 0.5  # of a picture's area; crops that augment keep 3/4 (84 of 96) or more
USUAL_SHORT_SIDE = 240  # pixels, and
USUAL_CROP = 0.9  # of each side: what Diffusion Policy's real robots see (arXiv 2303.04137)


@dataclass
class ChunkPolicyConfig(PreTrainedConfig):
    """Observations, chunk and trunk. Widths are in units, times in ticks (control periods)."""

    # Observations and chunk. Horizons are those of Diffusion Policy (arXiv 2303.04137, table 7), but for the history: a
    # policy that sees its own speed learns to keep it, and was slower and less successful for it (docs/experiments.md).
    n_obs_steps: int = 1
    horizon: int = 16
    n_action_steps: int = 8

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.MEAN_STD,
            "STATE": NormalizationMode.MIN_MAX,
            # LeRobot leaves ENV as it comes (0 to 512 on PushT) when it is not listed.
            "ENV": NormalizationMode.MIN_MAX,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )

    # Trunk. Several actions a token: attention is cheap, so fewer and wider tokens give more capacity per FLOP.
    width: int = 176
    layers: int = 4
    attention_heads: int = 4
    actions_per_token: int = 4

    # Cameras: ResNet-18 with group norm and spatial softmax, shared by all cameras unless asked. Their pictures are made
    # smaller, then cropped (at random in training, in the centre otherwise); (height, width) in pixels, None: as they
    # are. No crop unless asked: no size suits every camera, and one made for 96 x 96 shows next to nothing of 480 x 640.
    resize_shape: tuple[int, int] | None = None
    crop_shape: tuple[int, int] | None = None
    pretrained_backbone_weights: str | None = None  # e.g. "ResNet18_Weights.IMAGENET1K_V1": downloads
    # Batch norm would couple samples, and its running statistics disagree with an EMA of the weights; pretrained
    # weights come with it, so there it is frozen.
    backbone_norm: str = "group"  # or "frozen_batch"
    spatial_softmax_keypoints: int = 32
    separate_encoder_per_camera: bool = False

    # Actions past the end of an episode are copies of the last one: learning them teaches to hold the last target.
    mask_padding: bool = False
    drop_n_last_frames: int = 0
    # Training noise on state and environment state, normalised units; each sample's own strength is half-normal with
    # this scale. From the zero chunk D is a plain regression, which learns a few hundred demonstrations by heart.
    observation_noise: float = 0.0

    # The robot of the training data, filled in when training starts and checked before the policy moves another one
    # (inference/robot_contract.py). LeRobot itself reads action_feature_names, to order the actions in lerobot-rollout.
    action_feature_names: list[str] | None = None
    state_feature_names: list[str] | None = None
    dataset_fps: float | None = None  # ticks a second
    robot_type: str | None = None

    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-2
    optimizer_betas: tuple[float, float] = (0.9, 0.99)
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon % self.actions_per_token:
            raise ValueError(
                f"horizon ({self.horizon}) must be a multiple of actions_per_token ({self.actions_per_token})."
            )
        if self.width % self.attention_heads:
            raise ValueError(
                f"width ({self.width}) must be a multiple of attention_heads ({self.attention_heads})."
            )
        if self.backbone_norm not in ("group", "frozen_batch"):
            raise ValueError(
                f"backbone_norm must be 'group' or 'frozen_batch', found {self.backbone_norm!r}."
            )
        if self.pretrained_backbone_weights and self.backbone_norm == "group":
            raise ValueError(
                "pretrained_backbone_weights come with batch norm: set backbone_norm='frozen_batch'."
            )
        if not 1 <= self.n_action_steps <= self.horizon:
            raise ValueError(
                f"n_action_steps ({self.n_action_steps}) must lie between 1 and horizon ({self.horizon})."
            )
        self.resize_shape = _height_and_width("resize_shape", self.resize_shape)
        self.crop_shape = _height_and_width("crop_shape", self.crop_shape)

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.horizon))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def observation_features(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what the policy looks at, cameras as (C, H, W), in a fixed order."""
        kinds = (FeatureType.STATE, FeatureType.ENV, FeatureType.VISUAL)
        found = {k: tuple(f.shape) for k, f in (self.input_features or {}).items() if f.type in kinds}
        return dict(sorted(found.items()))

    def validate_features(self, trained: bool = False) -> None:
        """Raises ValueError when there is nothing to look at, or no action to predict, or pictures do not suit
        resize_shape and crop_shape.

        trained: the policy is loaded. What it was trained to look at is then no longer in question, however little.
        """
        if not self.observation_features():
            raise ValueError(
                "The policy has no observation: expected observation.state, observation.environment_state or "
                f"a camera among the input features, found {list(self.input_features or {})}."
            )
        if self.action_feature is None:
            raise ValueError(
                f"The policy has no 'action' output feature; found {list(self.output_features or {})}."
            )
        cameras = {n: (s[1], s[2]) for n, s in self.observation_features().items() if len(s) == 3}
        for name, size in cameras.items():
            self._validate_camera(name, size, _suitable_shapes(list(cameras.values())), trained)

    def _validate_camera(self, name: str, size: tuple[int, int], suitable: str, trained: bool) -> None:
        camera, resize, crop = f"camera '{name}' ({size[0]} x {size[1]})", self.resize_shape, self.crop_shape
        if resize:
            # Refused rather than left alone: then the pictures would not be what the recipe says, and crop_shape, which
            # is chosen for the resized picture, would not fit them.
            if resize[0] > size[0] or resize[1] > size[1]:
                raise ValueError(
                    f"resize_shape {resize} is larger than {camera}: enlarging costs time and shows nothing new. "
                    f"Set, for example, {suitable}."
                )
            size, camera = resize, f"{camera}, resized to {resize[0]} x {resize[1]}"
        if not crop:
            return
        if crop[0] > size[0] or crop[1] > size[1]:
            raise ValueError(f"crop_shape {crop} is larger than {camera}. Set, for example, {suitable}.")
        share = crop[0] * crop[1] / (size[0] * size[1])
        if share < SMALLEST_CROP and not trained:
            raise ValueError(
                f"crop_shape {crop} keeps {share:.1%} of {camera}; the policy would never see the rest in use. Make "
                f"pictures smaller before they are cropped, for example with {suitable}, or crop less."
            )

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            betas=tuple(self.optimizer_betas),
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        return DiffuserSchedulerConfig(name="cosine", num_warmup_steps=self.scheduler_warmup_steps)


def _height_and_width(name: str, shape: Sequence[int] | None) -> tuple[int, int] | None:
    """`shape` as a tuple. Raises ValueError unless it is two positive numbers, or None."""
    if shape is None:
        return None
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{name} must be (height, width) in pixels, or None, found {shape}.")
    return shape[0], shape[1]


def _suitable_shapes(sizes: Sequence[tuple[int, int]]) -> str:
    """Shapes that suit cameras of these sizes (height, width), as the end of an error message."""
    height, width = (min(side) for side in zip(*sizes, strict=True))  # enlarges none of them
    scale = min(1.0, USUAL_SHORT_SIDE / min(height, width))
    resize = round(scale * height), round(scale * width)
    crop = round(USUAL_CROP * resize[0]), round(USUAL_CROP * resize[1])
    return f"resize_shape {resize} and crop_shape {crop}"
