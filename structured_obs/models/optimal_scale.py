"""One scale of all covariances, set to the best fit instead of learnt.

The density of residuals under a covariance scale^2 R is largest at scale^2 = r^T R^-1 r / D, averaged
over the images. A training step takes that of its batch, over all devices, and keeps a running mean of
its logarithm for everything that comes later. The scale's own derivative vanishes at the optimum, so
that none is taken.

Letters: B batch; D = H W C pixels and channels.

Reference: Rybkin et al., "Simple and Effective VAE Training with Calibrated Decoders", 2021.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base, gaussian

Array = jax.Array

RATE = 0.05  # weight of the newest batch in the running mean


class OptimalScale(nn.Module):
  """Multiplies every standard deviation by the best one of the batch, or by the running one."""

  family: base.Family
  axis_name: str | None = None  # mapped axis over devices

  @nn.compact
  def __call__(self, params: Any, x: Array | None = None) -> Any:
    """Scales the covariances of a batch of parameters.

    Args:
      params: the family's, with a leading B.
      x: [B, H, W, C], the images that the scale is to fit; None takes the running scale.
    """
    running, batches = (
      self.variable('batch_stats', name, lambda: jnp.zeros((), jnp.float32))
      for name in ('log_scale', 'batches')
    )
    log_scale = running.value
    if x is not None and not self.is_initializing():
      log_scale = best_log_scale(self.family, params, x, self.axis_name)
      batches.value = batches.value + 1
      # The first batches count alike, so that nothing is left of the scale it began with.
      rate = jnp.maximum(RATE, 1 / batches.value)
      running.value = running.value + rate * (log_scale - running.value)
    scale = jnp.exp(log_scale)
    return jax.vmap(lambda one: gaussian.temper(self.family, one, scale))(params)


def best_log_scale(family: base.Family, params: Any, x: Array, axis_name: str | None) -> Array:
  """Returns the log of the scale that maximises the density of the images. [].

  Args:
    family: a Gaussian family.
    params: with a leading B.
    x: [B, H, W, C].
    axis_name: of the mapped axis over devices, over which the mean is taken too.
  """
  distance = jax.vmap(lambda one, image: gaussian.mahalanobis(family, one, image))(params, x)
  mean = jax.lax.stop_gradient(jnp.mean(distance)) / x[0].size
  return 0.5 * jnp.log(mean if axis_name is None else jax.lax.pmean(mean, axis_name))
