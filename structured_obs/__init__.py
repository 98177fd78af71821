"""Structured observation distributions for image models, in JAX.

The public packages, each imported by name and only when wanted:

  structured_obs.distributions  pure functions on one image: log_prob, sample, entropy, condition, ...
  structured_obs.linalg         the structured linear algebra behind them
  structured_obs.objectives     evidence bounds on a model's terms, and constraints
  structured_obs.models         Flax networks that emit a distribution's parameters
  structured_obs.data           real images as one array, read in a reproducible order
  structured_obs.train          the training step, mapped over devices, and the loop around it
  structured_obs.evaluation     how good a trained model is
  structured_obs.applications   what one predicted distribution is good for: edit, denoise, interpolate
  structured_obs.plotting       every figure

`import structured_obs.distributions` needs jax alone.
"""

__version__ = '0.1.0'
