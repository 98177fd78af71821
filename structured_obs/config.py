"""Typed configuration of a run: returned by `configs/*.py`, and stored in every checkpoint.

Every field has a type, a default, a unit and, in its annotation, a range. Launch scripts change single
fields from the command line (`--config.optim.learning_rate=3e-4`), type-checked. Options of a choice,
such as a kind of model, a source or a schedule, are in the `options` beside its name, as its own record
names them. Behind the data pipeline, pixels are in [-1, 1] everywhere, and so are the units of every
option that depends on scale (a noise variance, a smallest standard deviation): 1e-5 of a [0, 1] image
is 4e-5 here.
"""

import dataclasses
from typing import Annotated, Any

from structured_obs.option_values import (
  Choice,
  Count,
  CountOrNone,
  NotNegative,
  Path,
  Positive,
  Range,
  Share,
  section,
)

# The flag parser reads the annotations as types: no `from __future__ import annotations` here.


@section
class DataConfig:
  """Which images to use, how they are cropped to one size, and how they reach the device."""

  # 'digits', 'mnist_sample', 'photos', 'splines', 'ellipses', 'folder:PATH', 'npz:PATH', 'nifti:PATH'
  # or 'tfds:NAME'
  source: str = 'digits'
  options: dict[str, Any] = dataclasses.field(default_factory=dict)  # options of the source
  height: CountOrNone = 0  # pixels; 0 keeps the source's height
  width: CountOrNone = 0  # pixels; 0 keeps the source's width
  # 1 gray, 3 RGB; 0: RGB if any image is colour, otherwise gray
  channels: Annotated[int, Choice((0, 1, 3))] = 0
  # 'center': largest centred window of the target's aspect; 'none': stretch; 'random': windows of the
  # target's size, drawn once for every image by split_seed, each around a pixel that is not near black.
  crop: str = 'center'
  crop_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of 'random': crops, a number
  resample: str = 'area'  # 'area' (anti-aliased box), 'bilinear', 'bicubic', 'lanczos', 'nearest'
  limit: CountOrNone = 0  # use at most this many images; 0 for all
  validation_fraction: Share = 0.1  # of the training images, if the source has no such split
  test_fraction: Share = 0.1  # of all images, if the source has no such split
  split_seed: CountOrNone = 0  # seed of the fixed random split
  cache_dir: Annotated[str, Path()] = ''  # prepared arrays; '' for ~/.cache/structured_obs
  flip: bool = False  # random horizontal flips in training
  turn: bool = False  # random rotations by right angles in training; with flip, all 8 symmetries
  shift: CountOrNone = 0  # largest random translation in training, in pixels; edges are repeated
  labels: bool = False  # give the model each image's class: the source's labels, or sub-folders
  # Which pixels count, in the likelihood and every score: 'none' (all), 'alpha' (not transparent),
  # 'nonzero' (not black), or 'volume' (of a volume beside each volume). The model sees gray elsewhere.
  mask: str = 'none'
  mask_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the mask
  residency: str = 'auto'  # 'device', 'host' (memory-mapped) or 'auto' by the device's memory


@section
class ModelConfig:
  """The kind of model, and its options."""

  # 'vae'; 'ae', an autoencoder: one latent per image and no KL; 'covariance', a network from the known
  # mean of an image to its covariance, for data with means; 'distribution', one for all images, without
  # a network; 'sr_vae', a VAE in two levels, a small image and the rest; 'denoiser', a U-Net from an
  # image with noise to the one without; or 'classifier', which models labels, not images: its features
  # serve FID and KID.
  kind: str = 'vae'
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


@section
class LikelihoodConfig:
  """The observation distribution p(x|z): a family of `structured_obs.distributions` and its options."""

  family: str = 'diagonal'
  options: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of the family
  # Wrappers of `structured_obs.distributions` around the family, by name, innermost first, such as
  # ('colour', 'student'); and the options of each, by its name.
  wrappers: tuple[str, ...] = ()
  wrapper_options: dict[str, Any] = dataclasses.field(default_factory=dict)


@section
class ObjectiveConfig:
  """What is maximised."""

  # Weight of KL(q(z|x) || p(z)) in the training loss, for latents with a prior; evaluations use 1.
  beta: NotNegative = 1.0
  beta_warmup_steps: CountOrNone = 0  # over which that weight grows from 0, linearly; 0: from the start
  # Nats of KL for each latent that cost nothing: the loss has the larger of this and the mean KL.
  free_bits: NotNegative = 0.0
  dequantize: bool = True  # add uniform noise of one gray level's width to the images
  # Constraints on means over the images, held by learnt multipliers, each with a bound, a damping, a
  # rate and a kind: 'at_most', 'at_least' or 'equal'. 'kl', in nats: KL(q(z|x) || p(z)). 'entropy', nats
  # per rank: for each column of a low-rank factor, the entropy of p(x|z) minus that of its pixel noise,
  # or of noise of the variance `floor`. 'trace', in squared units of the data: the variance that a
  # low-rank factor adds to a value of an image, on average: trace(P P^T) / D.
  constraints: dict[str, Any] = dataclasses.field(default_factory=dict)
  # The loss that replaces -log p(x|z), by its name in `objectives.reconstruction`, such as 'l1'; '' for
  # the density itself. Evaluations always use the density.
  reconstruction: str = ''
  reconstruction_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  white_steps: CountOrNone = 0  # first steps, in which the pixels are independent, of one variance
  # Of a network of blur kernels G(z), which learns from a loss of its own: whether the latents z learn
  # from what the kernel G(z) changes in the objective, 'latents', or take it as given, 'held'.
  kernel_gradient: Annotated[str, Choice(('held', 'latents'))] = 'held'
  # From 0 to 1: how much of what the mean, and with it encoder and latents, learns from is another loss.
  # 0: all learn from the density. 1: the mean learns from the other loss alone, and the covariance from
  # the density with mean and latents held. Correlated pixels make a mean that learns from them give up.
  mean_gradient: Annotated[float, Range(0, 1)] = 0.0
  # That loss: '' for white pixels at their best scale, or a name of `objectives.reconstruction`.
  mean_loss: str = ''
  mean_loss_options: dict[str, Any] = dataclasses.field(default_factory=dict)


@section
class OptimConfig:
  """The optimizer, its schedule and its stages."""

  learning_rate: Positive = 1e-3
  # 'adam', or 'adamax', which divides by the largest recent gradient of each number.
  optimizer: str = 'adam'
  warmup_steps: CountOrNone = 100  # linear, from 0
  # 'constant', 'cosine' (to 0 at the last step) or 'exponential' (times its `decay` at every step after
  # the warm-up, down to its `min_learning_rate`).
  schedule: str = 'constant'
  schedule_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  weight_decay: NotNegative = 0.0  # decoupled (AdamW; for 'adamax' too), on kernels only
  clip_norm: NotNegative = 0.0  # clip the gradient's global norm to this; 0 does not clip
  ema_decay: Share = 0.0  # of the exponential moving average of the parameters; 0 for none
  # 'WHAT:STEPS' stages in turn, where WHAT is 'mean' (the other heads, or the covariance's decoder,
  # wait), 'covariance' (only these learn), 'all_but_mean' (only the mean's head, or decoder, waits) or
  # 'all'. After the last stage, everything learns. Empty: everything from the start. Options of a stage
  # follow its steps: 'mean:200:learning_rate=1e-3:loss=l1:weight=5'; see `runs.stages`.
  stages: tuple[str, ...] = ()


@section
class TrainConfig:
  """The training loop."""

  steps: Count = 1000
  batch_size: Count = 64  # images per step, over all devices and hosts
  # Parts of a device's images in a step, processed in turn: the same step, with the memory of one part.
  # On CPUs, convolutions are many times slower in parts.
  accumulate: Count = 1
  # 'float32', or 'bfloat16' for the products inside networks; parameters, gradients, the networks'
  # outputs, likelihoods and sums are float32 either way.
  compute: Annotated[str, Choice(('float32', 'bfloat16'))] = 'float32'
  seed: CountOrNone = 0
  mapping: str = 'shard_map'  # 'shard_map' or 'pmap'
  steps_in_flight: Count = 4  # steps dispatched before the loop waits for the oldest
  log_every: Count = 50  # steps
  validate_every: Count = 200  # steps
  checkpoint_every: Count = 200  # steps
  keep: Count = 2  # latest checkpoints to keep, besides the best
  patience: CountOrNone = 0  # validations without improvement before stopping early; 0 never stops early
  max_nonfinite: Count = 10  # consecutive skipped steps before the run stops
  # Workdir of a run whose best parameters are taken over by name; '' for none.
  start_from: Annotated[str, Path()] = ''


@section
class EvalConfig:
  """Evaluation on a split."""

  batch_size: Count = 64  # images at a time
  importance_samples: Count = 500  # K of IWAE
  chunk: Count = 50  # importance samples evaluated at once; bounds the memory
  # An image is reported if one of its pixels has more than this many times the largest variance possible
  # given its neighbours: its covariance explodes. Validation looks at a few images.
  inflation_threshold: NotNegative = 1e3


@section
class Config:
  """A whole run."""

  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  likelihood: LikelihoodConfig = dataclasses.field(default_factory=LikelihoodConfig)
  objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
