"""srVAE: a VAE in two levels, of a compressed image y = d(x) and of what x has beyond it.

  p(x, y, z, u) = p(x | y, z) p(z | y, u) p(y | u) p(u)
  q(y, z, u | x) = q(z | x) q(u | y) [y = d(x)]

The latents u and z are [H / 4, W / 4, Z] each. The posteriors and p(z | y, u) are diagonal Gaussians
with log variances within about +-7, and p(u) is any of `latent_priors`. x and y are discretised logistic
mixtures; with the option `consistent`, x has a probability only where d(x) = y. As y is discrete and
determined by x, E log q(y | x) = 0. It is not a term of the bound, which is

  RE_x + RE_y - KL_z - KL_u:  log p(x | y, z) + log p(y | u) - KL(q(z | x) || p(z | y, u)) - KL_u

with the closed form of KL_z, given the sampled u, and the sampled log q(u | y) - log p(u) for KL_u.

The networks are in `sr_vae_networks`. Unlike the authors', they clip log variances softly, since a
hardtanh has no gradient outside its range.

Letters: B batch; H W C image height, width, channels; h w c those of y; Z channels of a latent.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, sections 3.1 to 3.3,
appendix A.2, and its public code.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from structured_obs.distributions import base, consistent_mixture, diagonal
from structured_obs.models import compression, encoder_decoder, intermediate_images, latent_priors, vae
from structured_obs.models.base import Traits
from structured_obs.models.kind import IMAGES, Kind, Setting
from structured_obs.models.networks import dense_blocks, dense_net, sr_vae_networks, upscaling
from structured_obs.models.networks.sr_vae_networks import Options, XDecoder, YDecoder, ZNetwork
from structured_obs.objectives.terms import Terms

Array = jax.Array

LOG_VARIANCE = 7.0  # log variances of latents lie within about +- this


class Latents(NamedTuple):
  """Latents that an image is generated from."""

  u: Array  # [B, H / 4, W / 4, Z]  of the compressed image
  z: Array  # [B, H / 4, W / 4, Z]  of what the image has beyond it


class SrVAE(nn.Module):
  """Two-level VAE with the methods of `vae.VAE`; what it draws of y is shown as the stage 'y'.

  Keys come one per image. Images have a size that divides by 4.
  """

  family: base.Family  # discrete, of x
  image: base.ImageShape
  latents: int = 16  # Z
  options: Options = Options()
  prior: str = 'realnvp'  # prior of u, one of `latent_priors.PRIORS`
  prior_options: Mapping[str, Any] = FrozenDict()
  dtype: Any = None  # of the networks' products, but the last ones; None: that of the images
  small_family: base.Family | None = None  # of y; None: as of x
  label_classes = None
  masked = False
  traits = Traits(
    families=('family', 'small_family'),
    generates=True,
    has_prior=True,
    has_latents=True,
    two_levels=True,
    data_dependent=True,
  )

  def __post_init__(self) -> None:
    self.prior_options = FrozenDict(self.prior_options)  # hashable, so that a model can be static
    super().__post_init__()

  def setup(self) -> None:
    """Makes the networks."""
    options, grid = self.options, dense_net.latent_shape(self.image, self.latents)
    self.compression = sr_vae_networks.make_compression(self.family, options)
    self.small = compression.compressed_shape(self.compression, self.image)
    levels, width = _halvings(self.small, self.image), 2 * self.latents
    kind = dense_net.settings(self.dtype)
    self.u_prior = latent_priors.make(self.prior, grid, self.prior_options, self.dtype)
    self.y_encoder = dense_blocks.DenseEncoder(
      width, options.y_encoder_growth, options.y_encoder_depth, levels, **kind
    )
    self.x_encoder = dense_blocks.DenseEncoder(
      width, options.x_encoder_growth, options.x_encoder_depth, dense_net.HALVINGS, **kind
    )
    self.z_network = ZNetwork(self.latents, levels, options, self.dtype)
    self.of_y = self.small_family or self.family
    self.y_decoder = YDecoder(self.of_y.outputs(self.small), levels, options, self.dtype)
    self.decoder = XDecoder(self.of_y.outputs(self.image), options, self.dtype)
    self.start = sr_vae_networks.make_start(self.compression, self.image, options, self.dtype)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Draws u ~ q(u|y) and z ~ q(z|x) once per image, and reports every term of the bound.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats on the grid of gray levels.
      train: for a prior that keeps statistics.

    Returns:
      Terms with 'x', 'y', 'z' and 'u', and KL(q(z|x) || p(z|y, u)) as 'kl_z' in the stats.
    """
    vae.check_images(x, self.image)
    u_keys, z_keys, _ = _split(keys)
    y = self.compress(x)
    q_u, q_z = self.encode_y(y), self.encode_x(x)
    u, z = _draw(u_keys, q_u), _draw(z_keys, q_z)
    p_z = self.predict_z(y, u)
    begun = None if self.start is None else self.start(y, x)
    log_p_x = jax.vmap(self.family.log_prob)(self._decode(y, z, begun), x)
    return Terms(
      log_p={
        'x': log_p_x + upscaling.learning(x, begun),
        'y': jax.vmap(self.of_y.log_prob)(self.decode_y(u), y),
        'z': jax.vmap(diagonal.log_prob)(p_z, z),
        'u': self.u_prior.log_prob(u, train),
      },
      log_q={'z': jax.vmap(diagonal.log_prob)(q_z, z), 'u': jax.vmap(diagonal.log_prob)(q_u, u)},
      stats={'kl_z': jax.vmap(_kl)(q_z, p_z)},
    )

  def compress(self, x: Array) -> Array:
    """Returns y = d(x), [B, h, w, c]."""
    return jax.vmap(lambda image: compression.compress(self.compression, image))(x)

  def upscale(self, y: Array, method: str = 'bilinear') -> Array:
    """Returns the compressed images in the shape of x, [B, H, W, C], by interpolation alone."""
    one = lambda image: compression.upscale(self.compression, image, self.image, method)  # noqa: E731
    return jax.vmap(one)(y)

  def encode_x(self, x: Array) -> diagonal.Diagonal:
    """Returns q(z|x), [B, H / 4, W / 4, Z] each."""
    return _gaussian(self.x_encoder(x))

  def encode_y(self, y: Array) -> diagonal.Diagonal:
    """Returns q(u|y), [B, H / 4, W / 4, Z] each."""
    return _gaussian(self.y_encoder(y))

  def predict_z(self, y: Array, u: Array) -> diagonal.Diagonal:
    """Returns p(z|y, u), [B, H / 4, W / 4, Z] each."""
    return _gaussian(self.z_network(y, u))

  def decode_y(self, u: Array) -> Any:
    """Returns the parameters of p(y|u)."""
    return jax.vmap(self.of_y.from_outputs)(self.y_decoder(u))

  def decode_x(self, y: Array, z: Array) -> Any:
    """Returns the parameters of p(x|y, z)."""
    return self._decode(y, z, None if self.start is None else self.start(y))

  def _decode(self, y: Array, z: Array, begun: Array | None) -> Any:
    outputs = self.decoder(y, z)
    if begun is not None:
      components = outputs['locs'].shape[-1] // begun.shape[-1]
      begun = jnp.repeat(jax.lax.stop_gradient(begun), components, axis=-1)
      outputs['locs'] = outputs['locs'] + begun
    if self.options.consistent:
      outputs['y'] = y
    return jax.vmap(self.family.from_outputs)(outputs)

  def infer(self, keys: Array | None, x: Array) -> Latents:
    """Returns latents drawn from q(u|d(x)) and q(z|x), or their means where keys is None."""
    vae.check_images(x, self.image)
    u_keys, z_keys, _ = _split(keys)
    u, z = _draw(u_keys, self.encode_y(self.compress(x))), _draw(z_keys, self.encode_x(x))
    return Latents(u, z)

  def decode(self, latents: Latents) -> Any:
    """Returns the parameters of p(x|y, z) with y the mode of p(y|u).

    A way through the latents moves both.
    """
    params = self.decode_y(latents.u)
    y = jax.vmap(self.of_y.mean if self.of_y.mode is None else self.of_y.mode)(params)
    return self._tell(y, latents.z)

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the parameters of p(x|y, z) at y = d(x) and z ~ q(z|x), or its mean where keys is None."""
    vae.check_images(x, self.image)
    _, z_keys, _ = _split(keys)
    return self._tell(self.compress(x), _draw(z_keys, self.encode_x(x)))

  def generate(self, keys: Array) -> Any:
    """Returns the parameters of p(x|y, z) for u ~ p(u), y ~ p(y|u) and z ~ p(z|y, u); keys [B]."""
    u_keys, z_keys, y_keys = _split(keys)
    return self._generate(self.u_prior.sample(u_keys), y_keys, z_keys)

  def regenerate(self, keys: Array, x: Array) -> Any:
    """Returns the generative reconstruction: as `generate`, but with u ~ q(u|d(x)); keys [B]."""
    vae.check_images(x, self.image)
    u_keys, z_keys, y_keys = _split(keys)
    return self._generate(_draw(u_keys, self.encode_y(self.compress(x))), y_keys, z_keys)

  def super_resolve(self, keys: Array | None, y: Array) -> Any:
    """Returns the parameters of p(x|y, z) of compressed images [B, h, w, c], u ~ q(u|y), z ~ p(z|y, u).

    Where keys is None, u and z are the means of these.
    """
    if y.ndim != 4 or y.shape[1:] != tuple(self.small):
      raise ValueError(
        f'y must be compressed images of shape (batch, {", ".join(map(str, self.small))}), but has the '
        f'shape {y.shape}.'
      )
    u_keys, z_keys, _ = _split(keys)
    u = _draw(u_keys, self.encode_y(y))
    return self._tell(y, _draw(z_keys, self.predict_z(y, u)))

  def _generate(self, u: Array, y_keys: Array, z_keys: Array) -> Any:
    y = jax.vmap(self.of_y.sample)(y_keys, self.decode_y(u))
    return self._tell(y, _draw(z_keys, self.predict_z(y, u)))

  def _tell(self, y: Array, z: Array) -> Any:
    intermediate_images.show(self, 'y', y)
    return self.decode_x(y, z)


def check(model: SrVAE) -> None:
  """Raises ValueError, naming the invalid option, if the model does not fit its images."""
  grid = dense_net.latent_shape(model.image, model.latents)
  small = compression.compressed_shape(
    sr_vae_networks.make_compression(model.family, model.options), model.image
  )
  latent_priors.make(model.prior, grid, model.prior_options)
  for name, growth, number in (
    ('x_decoder_growth', model.options.x_decoder_growth, dense_net.HALVINGS),
    ('y_decoder_growth', model.options.y_decoder_growth, _halvings(small, model.image)),
  ):
    if growth >> max(0, number - 1) < 1:
      raise ValueError(
        f'--config.model.options.{name} must be at least {1 << (number - 1)}, since it is '
        f'halved with every doubling of an image; got {growth}.'
      )


def _halvings(small: base.ImageShape, image: base.ImageShape) -> int:
  """Returns the number of halvings from y to the size of the latents."""
  return (dense_net.REDUCTION * small.height // image.height).bit_length() - 1


def _gaussian(outputs: Array) -> diagonal.Diagonal:
  """Returns the Gaussian of outputs [B, h, w, 2 Z], its mean and log variance."""
  mean, log_variance = jnp.split(outputs, 2, axis=-1)
  return diagonal.Diagonal(mean, 0.5 * base.soft_clip(log_variance, -LOG_VARIANCE, LOG_VARIANCE))


def _kl(q: diagonal.Diagonal, p: diagonal.Diagonal) -> Array:
  """Returns KL(q || p) of one image's latent. [], nats."""
  ratio = jnp.exp(2 * (q.log_scale - p.log_scale))
  distance = jnp.square((q.mean - p.mean) * jnp.exp(-p.log_scale))
  return 0.5 * jnp.sum(ratio + distance - 1 - 2 * (q.log_scale - p.log_scale))


def _draw(keys: Array | None, params: diagonal.Diagonal) -> Array:
  """Returns a sample for each image, or the mean where keys is None."""
  return params.mean if keys is None else jax.vmap(diagonal.sample)(keys, params)


def _split(keys: Array | None) -> tuple[Any, Any, Any]:
  """Returns keys [B] of u, of z and of y; None of each for None."""
  if keys is None:
    return None, None, None
  parts = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
  return parts[:, 0], parts[:, 1], parts[:, 2]


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> SrVAE:
  sizes = Options(**{name: options[name] for name in Options._fields if name in options})
  prior, prior_options = options['prior'], options['prior_options']
  made = SrVAE(family, image, options['latents'], sizes, prior, prior_options, setting.dtype)
  check(made)
  return with_consistent_images(made) if sizes.consistent else made


def with_consistent_images(model: SrVAE) -> SrVAE:
  """Returns the model with p(x|y, z) over the images x with d(x) = y alone."""
  family = consistent_mixture.family(model.family, model.options.factor)
  return model.clone(family=family, small_family=model.family)


KIND = Kind(
  (encoder_decoder.Latents, Options, latent_priors.PriorOptions),
  _build,
  # Its layers have weight norm: no kernel is there to decay.
  unused=(*IMAGES, 'objective.constraints', 'optim.stages', 'optim.weight_decay'),
)
