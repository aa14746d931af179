"""Options shared by every policy that predicts an action chunk with our trunk."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import DiffuserSchedulerConfig
from lerobot.utils.constants import ACTION

from ebt_policy.language.encoders import OBS_TASK, check_name

VISIONS = ("resnet18", "small", "frozen")
FROZEN_BACKBONES = ("mobilenet_v2", "efficientnet_lite0")
SMALLEST_CROP = 0.5  # of a picture's area; crops that augment keep 3/4 (84 of 96) or more
USUAL_SHORT_SIDE = 240  # pixels, and
USUAL_CROP = 0.9  # of each side: what Diffusion Policy's real robots see (arXiv 2303.04137)


DEFAULT_NORMALIZATION = {
    "VISUAL": NormalizationMode.MEAN_STD,
    "STATE": NormalizationMode.MIN_MAX,
    "ENV": NormalizationMode.MIN_MAX,
    "ACTION": NormalizationMode.MIN_MAX,
}


@dataclass
class ChunkPolicyConfig(PreTrainedConfig):
    """Observations, chunk and trunk. Widths are in units, times in ticks (control periods)."""

    n_obs_steps: int = 1
    """[ticks] Observations that the policy sees. One: a policy that sees its own speed learns to keep it, and was slower and
    less successful for it (docs/experiments.md)."""
    horizon: int = 16
    """[ticks] Actions in a chunk, as in Diffusion Policy (arXiv 2303.04137, table 7)."""
    n_action_steps: int = 8
    """[ticks] Actions that are executed before the next decision, as in Diffusion Policy."""

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict(DEFAULT_NORMALIZATION)
    )
    """[names] How each kind of feature is normalised. A kind that is not given keeps its default: LeRobot would leave it
    as it comes (0 to 512 on PushT)."""

    width: int = 176
    """[units] Width of the transformer. With 4 layers 2.3 million parameters: two checkpoints fit into 10 MB."""
    layers: int = 4
    """[layers] Depth of the transformer."""
    attention_heads: int = 4
    """[heads] Attention heads of a layer."""
    actions_per_token: int = 4
    """[actions] Actions in one token. Attention is cheap, so fewer and wider tokens give more capacity per FLOP."""

    dropout: float = 0.0
    """[share] Of what attention and MLP of each layer add, set to zero in training. For trainings of many epochs: see docs/results/pusht_keypoints.md,
    "Three times the training"."""

    vision: str = "resnet18"
    """[name] Camera encoder. small: five convolutions trained from scratch, for pictures of about 84 to 128 pixels and for
    CPUs; resnet18: for larger pictures and GPUs; frozen: maps of a pretrained backbone, which is not trained."""
    frozen_backbone: str = "mobilenet_v2"
    """[name] With vision=frozen: mobilenet_v2 or efficientnet_lite0. Its ImageNet weights come from a package (docs/train.md), those
    of mobilenet_v2 also from torchvision's downloads."""
    feature_dropout: float = 0.1
    """[share] With vision=frozen: channels of the maps that are set to zero in training, against over-fitting."""
    random_shift: int = 4
    """[pixels] How far training pictures are moved at random in both directions. 0: not at all."""
    random_colour: float = 0.2
    """[share] vision frozen: how far each colour of a training picture is scaled and offset at random. 0: not at all. Others:
    dataset.image_transforms."""
    resize_shape: tuple[int, int] | None = None
    """[pixels: height, width] Size to which pictures are made smaller first. None: as they are."""
    crop_shape: tuple[int, int] | None = None
    """[pixels: height, width] Crop after that, at random in training and in the centre otherwise. None: no crop, since no size
    suits every camera."""
    pretrained_backbone_weights: str | None = None
    """[name] Weights that vision=resnet18 starts from, e.g. ResNet18_Weights.IMAGENET1K_V1, which are downloaded; None: trained
    from scratch. With vision=frozen it is the name in frozen_backbone."""
    backbone_norm: str = "group"
    """[name] group, or frozen_batch. Batch norm would couple samples, and its running statistics disagree with an average of
    the weights; pretrained weights come with it, so there it is frozen."""
    spatial_softmax_keypoints: int = 32
    """[points] Image points that the encoder passes on for each camera."""
    context_tokens: bool = False
    """[yes or no] Action tokens also attend to a token for each image point, with what the camera shows there, instead of seeing the
    cameras in one vector alone."""
    separate_encoder_per_camera: bool = False
    """[yes or no] An encoder for each camera instead of one for all."""

    task_encoder: str | None = None
    """[name] How the sentence of the task reaches the policy. static: word vectors of the package wordllama; table: a learned
    vector for each sentence of the training data, others are refused; hub:<id>: a model of sentence-transformers; ignore: not at
    all. None: static where the data have more than one task (table without the package), else ignore."""
    task_sentences: list[str] | None = None
    """[sentences] Those of the training data, filled in when training starts. None: the policy is not told its task."""
    task_size: int = 0
    """[numbers] Length of a sentence's vector, filled in likewise."""

    mask_padding: bool = False
    """[yes or no] Leave out actions past the end of an episode, which are copies of the last one. Learning them teaches to hold
    the last target, which helps on PushT."""
    drop_n_last_frames: int = 0
    """[ticks] Last frames of an episode that start no training sample."""
    observation_noise: float = 0.0
    """[normalised units] Training noise on state and environment state; the strength of each sample is half-normal with this
    scale. Can keep the policy from learning a few hundred demonstrations by heart; gained nothing in short trainings on PushT."""

    action_feature_names: list[str] | None = None
    """[names] Joints of the training data, filled in when training starts and checked before the policy moves another robot.
    LeRobot reads it to order the actions in lerobot-rollout."""
    state_feature_names: list[str] | None = None
    """[names] The same for the state."""
    dataset_fps: float | None = None
    """[ticks per second] Rate of the training data, filled in and checked likewise."""
    robot_type: str | None = None
    """[name] Robot of the training data, filled in and checked likewise."""

    optimizer_lr: float = 1e-3
    """[per step] Learning rate of AdamW in lerobot-train; a recipe has its own. 2e-3 gained nothing on PushT."""
    optimizer_weight_decay: float = 1e-2
    """[per step] Weight decay of AdamW, as above."""
    optimizer_betas: tuple[float, float] = (0.9, 0.99)
    """[factors] Betas of AdamW, as above."""
    optimizer_grad_clip_norm: float = 1.0
    """[norm] The gradient over all parameters is cut to this."""
    scheduler_warmup_steps: int = 500
    """[steps] Linear warm-up of the learning rate, before a cosine to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.normalization_mapping if name not in FeatureType.__members__]
        if unknown:
            raise ValueError(
                f"normalization_mapping has unknown entries {unknown}; expected some of "
                f"{', '.join(DEFAULT_NORMALIZATION)}."
            )
        self.normalization_mapping = DEFAULT_NORMALIZATION | self.normalization_mapping
        if self.task_encoder is not None:
            check_name(self.task_encoder)
        if self.horizon % self.actions_per_token:
            raise ValueError(
                f"horizon ({self.horizon}) must be a multiple of actions_per_token ({self.actions_per_token})."
            )
        if self.width % self.attention_heads:
            raise ValueError(
                f"width ({self.width}) must be a multiple of attention_heads ({self.attention_heads})."
            )
        if self.vision not in VISIONS:
            raise ValueError(f"vision must be one of {VISIONS}, found {self.vision!r}.")
        if self.random_shift < 0:
            raise ValueError(f"random_shift must be 0 or more pixels, found {self.random_shift}.")
        for name in ("random_colour", "feature_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, found {getattr(self, name)}.")
        if self.frozen_backbone not in FROZEN_BACKBONES:
            raise ValueError(
                f"frozen_backbone must be one of {FROZEN_BACKBONES}, found {self.frozen_backbone!r}."
            )
        self._check_weights()
        if self.backbone_norm not in ("group", "frozen_batch"):
            raise ValueError(
                f"backbone_norm must be 'group' or 'frozen_batch', found {self.backbone_norm!r}."
            )
        if not 1 <= self.n_action_steps <= self.horizon:
            raise ValueError(
                f"n_action_steps ({self.n_action_steps}) must lie between 1 and horizon ({self.horizon})."
            )
        self.resize_shape = _height_and_width("resize_shape", self.resize_shape)
        self.crop_shape = _height_and_width("crop_shape", self.crop_shape)

    def _check_weights(self) -> None:
        """Weights of the camera encoder that suit `vision`. The frozen one brings its own normalisation of pictures."""
        given = self.pretrained_backbone_weights
        if self.vision == "frozen":
            if given not in (None, self.frozen_backbone):
                raise ValueError(
                    f"With vision='frozen' set frozen_backbone (one of {FROZEN_BACKBONES}) and leave "
                    f"pretrained_backbone_weights out; found {given!r}."
                )
            self.pretrained_backbone_weights = self.frozen_backbone
            self.normalization_mapping["VISUAL"] = NormalizationMode.IDENTITY
        elif given and (self.vision == "small" or given in FROZEN_BACKBONES):
            raise ValueError(
                f"pretrained_backbone_weights={given!r} are not for vision={self.vision!r}. Leave them out, or set "
                f"vision={'frozen' if given in FROZEN_BACKBONES else 'resnet18'!r}."
            )
        elif given and self.backbone_norm == "group":
            raise ValueError(
                "pretrained_backbone_weights come with batch norm: set backbone_norm='frozen_batch'."
            )

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
        """Names and shapes of what the policy looks at, cameras as (C, H, W), in a fixed order; the task's vector is the last."""
        kinds = (FeatureType.STATE, FeatureType.ENV, FeatureType.VISUAL)
        found = {k: tuple(f.shape) for k, f in (self.input_features or {}).items() if f.type in kinds}
        return dict(sorted(found.items())) | ({OBS_TASK: (self.task_size,)} if self.task_sentences else {})

    @property
    def has_tokens(self) -> bool:
        """Whether there are context tokens: they come from cameras."""
        return self.context_tokens and any(len(shape) == 3 for shape in self.observation_features().values())

    def validate_features(self, trained: bool = False) -> None:
        """Raises ValueError when there is no observation or no action, a shape that the networks cannot take, or when
        pictures do not suit resize_shape and crop_shape.

        trained: the policy is loaded. What it was trained to look at is then no longer in question, however little.
        """
        if not self.observation_features().keys() - {OBS_TASK}:
            raise ValueError(
                "The policy has no observation: expected observation.state, observation.environment_state or "
                f"a camera among the input features, found {list(self.input_features or {})}."
            )
        if self.action_feature is None:
            raise ValueError(
                f"The policy has no 'action' output feature; found {list(self.output_features or {})}."
            )
        for name, feature in {**(self.input_features or {}), ACTION: self.action_feature}.items():
            picture, shape = feature.type == FeatureType.VISUAL, tuple(feature.shape)
            used = name == ACTION or name in self.observation_features()
            if used and len(shape) != (3 if picture else 1):
                raise ValueError(
                    f"Feature '{name}' has shape {shape}; expected "
                    f"{'a picture (channels, height, width)' if picture else 'a vector (size,)'}. Store it in that shape"
                    + (
                        "."
                        if name == ACTION
                        else ", or leave it out (--set dataset.observations, in LeRobot policy.input_features)."
                    )
                )
        if self.vision == "frozen":
            for name, shape in self.observation_features().items():
                if len(shape) == 3 and shape[0] != 3:
                    raise ValueError(
                        f"Camera '{name}' has {shape[0]} channels; vision='frozen' takes pictures of three channels. Set "
                        "vision='small' or 'resnet18'."
                    )
        channels = {n: s[0] for n, s in self.observation_features().items() if len(s) == 3}
        if len(set(channels.values())) > 1 and not self.separate_encoder_per_camera:
            listed = ", ".join(f"{name} ({number})" for name, number in channels.items())
            raise ValueError(
                f"The cameras differ in their channels: {listed}; one encoder takes all of them. Leave a camera out, or "
                "set separate_encoder_per_camera=true."
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
            betas=(self.optimizer_betas[0], self.optimizer_betas[1]),
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
