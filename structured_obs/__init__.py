"""Structured observation distributions for image models, in JAX.

Public packages, each imported by name:

  structured_obs.distributions  pure functions on one image: log_prob, sample, entropy, condition, ...
  structured_obs.linalg         the structured linear algebra behind them
  structured_obs.objectives     evidence bounds from a model's terms, and constraints
  structured_obs.models         Flax networks that emit a distribution's parameters
  structured_obs.data           real images as one array, read in a reproducible order
  structured_obs.runs           a run: from a configuration to a workdir, and back to a trained model
  structured_obs.train          the training step, mapped over devices, and the loop around it
  structured_obs.evaluation     scores, reports and figures of trained models
  structured_obs.applications   uses of one predicted distribution: edit, denoise, interpolate
  structured_obs.plotting       every figure

`import structured_obs.distributions` needs jax alone.
"""

__version__ = '0.1.0'
