"""Typed configuration of a run: what `configs/*.py` return and what a workdir's checkpoint remembers.

Every field has a type, a default and a unit. A launch script changes single fields from the command
line (`--config.optim.learning_rate=3e-4`), type-checked. Pixels live in [-1, 1] everywhere behind the
data pipeline, so every scale-dependent option (a noise variance, a smallest standard deviation) is
given in those units: 1e-5 of a [0, 1] image is 4e-5 here.
"""

import dataclasses
from typing import Any

# The flag parser reads the annotations as types: no `from __future__ import annotations` here.


@dataclasses.dataclass
class DataConfig:
  """Which images, how they are cut to one size, and how they reach the device."""

  # 'digits', 'photos', 'splines', 'ellipses', 'folder:PATH', 'npz:PATH', 'nifti:PATH' or 'tfds:NAME'
  source: str = 'digits'
  height: int = 0  # pixels; 0 keeps the source's height
  width: int = 0  # pixels; 0 keeps the source's width
  channels: int = 0  # 1 gray, 3 RGB; 0: RGB if any image is colour, otherwise gray
  # 'center': largest centred window of the target's aspect; 'none': stretch; 'random': windows of the
  # target's size, drawn once for every image by split_seed, each around a pixel that is not near black.
  crop: str = 'center'
  crops: int = 1  # windows of each image where crop is 'random'
  resample: str = 'area'  # 'area' (anti-aliased box), 'bilinear', 'bicubic', 'lanczos', 'nearest'
  limit: int = 0  # ingest at most this many images; 0 takes all
  validation_fraction: float = 0.1  # of the training images, where the source has no such split
  test_fraction: float = 0.1  # of all images, where the source has no such split
  split_seed: int = 0  # seed of the fixed random split
  skip_corrupt: bool = False  # leave unreadable images out and count them, instead of an error
  cache_dir: str = ''  # prepared arrays; '' means ~/.cache/structured_obs
  manual_dir: str = ''  # official archives for tfds:NAME; '' means tensorflow_datasets' own place
  download: bool = False  # whether tfds:NAME may download
  flip: bool = False  # random horizontal flips while training
  turn: bool = False  # random turns by right angles while training; with flip, all 8 symmetries
  shift: int = 0  # random translations while training, at most this many pixels, edges repeated
  labels: bool = False  # give the model each image's class: the source's labels, or sub-folders
  # Of nifti:PATH, whose images are slices: 'axial', 'coronal' or 'sagittal' ones, of those in which at
  # least this fraction of the pixels is not near black.
  plane: str = 'axial'
  min_foreground: float = 0.1
  residency: str = 'auto'  # 'device', 'host' (memory-mapped) or 'auto' by the device's memory


@dataclasses.dataclass
class ModelConfig:
  """The network: convolutional, with residual blocks."""

  # 'vae'; 'ae', an autoencoder, with one latent for an image and no KL; 'covariance', a network from the
  # known mean of an image to its covariance, where the data come with means; 'distribution', one for
  # all images, without a network; or 'sr_vae', a VAE in two levels, of a small image and of the rest.
  # 'classifier' is no model of images: it learns their classes, for features that they are compared in.
  kind: str = 'vae'
  latents: int = 16  # dimension of z; where latents are images, their channels
  # Of an 'sr_vae', by the names in `models.sr_vae.Options`: what the small image is, such as its factor,
  # and how large the networks are.
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  # Of the latents of a model that has one: 'normal', 'mixture' or 'realnvp'; and its options, by the
  # names in `models.priors`, such as components of a mixture, or growth of a flow's networks.
  prior: str = 'normal'
  prior_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  features: tuple[int, ...] = (32, 64)  # channels at each resolution, finest first, then halved
  blocks: int = 1  # residual blocks at each resolution
  norm: str = 'none'  # 'none', 'group' or 'batch'
  # Of 'vae' and 'ae': 'mirror', whose encoder ends in dense layers; 'resnet', whose encoder ends in a
  # maximum over the image, and whose decoder begins with a transposed convolution of its size; or, with
  # blocks=0, 'strided' or 'upsampling', Blur-VAE's, which double by either of these (`models.strided`);
  # or 'dense', of a 'vae', dense blocks of `blocks` steps between images and latents of a quarter of the
  # sides, where the first of the features is the growth of the encoder and the last the decoder's.
  architecture: str = 'mirror'
  # Channels of a decoder that all outputs but the mean have to themselves, as `features`; () shares one.
  covariance_features: tuple[int, ...] = ()
  covariance_layers: int = 0  # 3x3 convolutions at the image's size that end that decoder
  covariance_sees_mean: bool = False  # whether these see the predicted mean
  learn_scale: bool = False  # learn one factor of all standard deviations along with the mean
  # Of a 'vae', instead: set that factor to the one that fits the images of a batch best.
  optimal_scale: bool = False
  # Hidden units of a network G(z) of the blur kernel, for likelihood.family 'circulant'. It learns by
  # itself, to blur images as the mean does. 0 makes the kernel an output of the decoder.
  kernel_features: int = 0
  # Of a 'covariance': 'mlp', fully connected layers of `features` units; or 'patch', layers of as many
  # channels that see one window each and a summary of the whole image.
  network: str = 'patch'
  window: int = 5  # pixels across, odd
  context: tuple[int, ...] = (32, 64)  # channels of the summary, at a half, a quarter, ...; () for none
  input_noise: float = 0.0  # of an 'ae': sd of noise in what it sees, not in what it is scored on
  natural_gradient: bool = False  # of a 'distribution': multiply gradients by its covariance


@dataclasses.dataclass
class LikelihoodConfig:
  """The observation distribution p(x|z): a family of `structured_obs.distributions` and its options."""

  family: str = 'diagonal'
  options: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of the family


@dataclasses.dataclass
class ObjectiveConfig:
  """What is maximised."""

  beta: float = 1.0  # weight of KL(q(z|x) || p(z)) in the training loss; evaluation always uses 1
  dequantize: bool = True  # add uniform noise of one gray level's width to the images
  # Constraints on the mean over the images, held by multipliers that are learnt along.
  kl_bound: float = 0.0  # nats: KL(q(z|x) || p(z)) is at most this; 0 is no constraint
  # Nats per rank: the entropy of p(x|z) above that of its pixel noise is at most this for each column of
  # a low-rank factor; 0 is no constraint.
  entropy_bound: float = 0.0
  # What the loss has in the place of -log p(x|z), by its name in `objectives.reconstruction`, such as
  # 'l1'; '' is the density itself, and what is evaluated is always that.
  reconstruction: str = ''
  reconstruction_weight: float = 1.0  # of that loss, beside the KL
  epsilon: float = 0.0  # of 'paper_loss': added to the transfer function; 0 drops the log-determinant
  white_steps: int = 0  # first so many steps that take the pixels to be independent, of one variance
  kernel_boundary: str = 'circular'  # of blurred images that a kernel network learns from: or 'zero'
  damping: float = 10.0  # of the constraints: weight of their squared violation
  multiplier_rate: float = 0.1  # steps of the multipliers, in units of the constraints' violation


@dataclasses.dataclass
class OptimConfig:
  """Adam or Adamax, its schedule and its stages."""

  learning_rate: float = 1e-3
  # 'adam', or 'adamax', which divides by the largest recent gradient of each number.
  optimizer: str = 'adam'
  kernel_learning_rate: float = 0.0  # of a kernel network; 0 is the same
  warmup_steps: int = 100  # linear, from 0
  # 'constant', 'cosine' (to 0 at the last step) or 'exponential' (times `decay` at every step after the
  # warm-up, down to `min_learning_rate`).
  schedule: str = 'constant'
  decay: float = 1.0  # of 'exponential': factor a step, below 1
  min_learning_rate: float = 0.0  # of 'exponential'
  weight_decay: float = 0.0  # decoupled (AdamW, and so for 'adamax'), on kernels only
  clip_norm: float = 0.0  # clip the gradient's global norm to this; 0 does not clip
  ema_decay: float = 0.0  # of the exponential moving average of the parameters; 0 keeps none
  # 'WHAT:STEPS' one after the other, WHAT being 'mean' (the other heads, or the covariance's decoder,
  # wait), 'covariance' (only these learn), 'all_but_mean' (only the mean's head, or decoder, waits) or
  # 'all'. After the last one, everything learns. Empty: everything from the start.
  stages: tuple[str, ...] = ()


@dataclasses.dataclass
class TrainConfig:
  """The training loop."""

  steps: int = 1000
  batch_size: int = 64  # images per step, over all devices and hosts
  # Parts that a device's images of a step are cut into, one after the other: the same step, in memory
  # for one part. On CPUs convolutions are many times slower in parts.
  accumulate: int = 1
  # 'float32', or 'bfloat16' for the products inside networks; parameters, gradients, the networks'
  # outputs, likelihoods and sums are float32 either way.
  compute: str = 'float32'
  seed: int = 0
  mapping: str = 'shard_map'  # 'shard_map' or 'pmap'
  steps_in_flight: int = 4  # steps dispatched before the loop waits for the oldest
  log_every: int = 50  # steps
  validate_every: int = 200  # steps
  checkpoint_every: int = 200  # steps
  keep: int = 2  # latest checkpoints kept, beside the best
  patience: int = 0  # validations without improvement before stopping early; 0 never stops early
  max_nonfinite: int = 10  # skipped steps in a row before the run stops
  start_from: str = ''  # workdir of a run whose best parameters are taken over by name; '' takes none


@dataclasses.dataclass
class EvalConfig:
  """Evaluation on a split."""

  batch_size: int = 64  # images at a time
  importance_samples: int = 500  # K of IWAE
  chunk: int = 50  # importance samples evaluated at once; bounds the memory
  # A covariance in which a pixel has more than this many times the largest variance it can have given
  # its neighbours is reported: it explodes where they lead it. Validation looks at a few images.
  inflation_threshold: float = 1e3


@dataclasses.dataclass
class Config:
  """A whole run."""

  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  likelihood: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)
  objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
