"""Kernel generator: from latents to the blur kernel that makes an image's covariance, G(z).

Letters: B batch; Z latents; k size of the kernel; C channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
section 3.3 and appendix A.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base

Array = jax.Array

START = 0.1  # standard deviation of the outputs at the start


class KernelGenerator(nn.Module):
  """Two linear layers that emit a family's output 'kernel'.

  What a number of it means is the family's choice: the logit of a tap, so that taps are positive and
  sum to 1, or the tap itself. Small weights start every kernel near the one of outputs 0, which hardly
  blurs.
  """

  shape: base.Shape  # of the output: (k, k) or (k, k, C)
  features: int = 1000  # hidden units

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """Maps latents [B, Z] to [B, *shape]."""
    hidden = nn.leaky_relu(nn.Dense(self.features)(z))
    init = nn.initializers.variance_scaling(START**2, 'fan_in', 'normal')
    kernel = nn.Dense(math.prod(self.shape), kernel_init=init)(hidden)
    return kernel.reshape(-1, *self.shape)


def held(generator: KernelGenerator, z: Array) -> Array:
  """Returns the outputs of a generator, with a derivative by the latents and none by its parameters.

  Args:
    generator: bound, and called once before, so that it has its parameters.
    z: [B, Z].

  Returns:
    [B, *shape].
  """
  unbound, variables = generator.unbind()
  return jnp.asarray(unbound.apply(jax.lax.stop_gradient(variables), z))
