"""Dense Gaussian oracles in float64: for tests and small images only.

Every function takes the mean as a vector [D] and the covariance as a matrix [D, D], works in NumPy
float64 whatever jax's precision is, and costs O(D^3). Structured implementations are compared with these
functions, which share no code and no formula with them. The quadratic forms go through a Cholesky factor
of the dense matrix; a covariance that is not positive definite raises `numpy.linalg.LinAlgError`.

Letters: D dimensions of a flattened image (row, column, channel, C order), O observed ones, A = D - O.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


def log_prob(mean: ArrayLike, cov: ArrayLike, x: ArrayLike) -> float:
  """Returns the log density of N(mean, cov) at x, with all constants. Nats.

  Args:
    mean: [D].
    cov: [D, D].
    x: [D].
  """
  _check(cov, mean=mean, x=x)
  residual = _vector(x) - _vector(mean)
  return -0.5 * (residual.size * math.log(2 * math.pi) + log_det(cov) + mahalanobis(cov, residual))


def mahalanobis(cov: ArrayLike, residual: ArrayLike) -> float:
  """Returns the squared Mahalanobis norm residual^T cov^-1 residual."""
  _check(cov, residual=residual)
  whitened = np.linalg.solve(np.linalg.cholesky(_matrix(cov)), _vector(residual))
  return float(whitened @ whitened)


def log_det(cov: ArrayLike) -> float:
  """Returns the log determinant of a covariance. Nats."""
  _check(cov)
  return float(2 * np.sum(np.log(np.diagonal(np.linalg.cholesky(_matrix(cov))))))


def entropy(cov: ArrayLike) -> float:
  """Returns the differential entropy of a Gaussian. Nats."""
  cov = _matrix(cov)
  return 0.5 * (len(cov) * (1 + math.log(2 * math.pi)) + log_det(cov))


def kl_divergence(mean_p: ArrayLike, cov_p: ArrayLike, mean_q: ArrayLike, cov_q: ArrayLike) -> float:
  """Returns KL(N(mean_p, cov_p) || N(mean_q, cov_q)). Nats.

  Args:
    mean_p: [D].
    cov_p: [D, D].
    mean_q: [D].
    cov_q: [D, D].
  """
  _check(cov_p, mean_p=mean_p, mean_q=mean_q)
  _check(cov_q, mean_q=mean_q)
  cov_p, cov_q = _matrix(cov_p), _matrix(cov_q)
  shift = _vector(mean_q) - _vector(mean_p)
  trace = float(np.trace(np.linalg.solve(cov_q, cov_p)))
  return 0.5 * (trace + mahalanobis(cov_q, shift) - len(cov_p) + log_det(cov_q) - log_det(cov_p))


def marginal(mean: ArrayLike, cov: ArrayLike, kept: ArrayLike) -> tuple[Vector, Matrix]:
  """Returns the mean [O] and covariance [O, O] of the dimensions in the boolean mask `kept` [D].

  Args:
    mean: [D].
    cov: [D, D].
    kept: [D], bool.
  """
  _check(cov, mean=mean, kept=kept)
  kept = np.asarray(kept, bool).ravel()
  return _vector(mean)[kept], _matrix(cov)[np.ix_(kept, kept)]


def condition(
  mean: ArrayLike, cov: ArrayLike, x: ArrayLike, observed: ArrayLike
) -> tuple[Vector, Matrix]:
  """Returns the mean [A] and covariance [A, A] of the dimensions not in `observed` [D], given x in it.

  Args:
    mean: [D].
    cov: [D, D].
    x: [D]; only its observed entries are read.
    observed: [D], bool.
  """
  _check(cov, mean=mean, x=x, observed=observed)
  mean, cov, x = _vector(mean), _matrix(cov), _vector(x)
  seen = np.asarray(observed, bool).ravel()
  rest = ~seen
  gain = np.linalg.solve(cov[np.ix_(seen, seen)], cov[np.ix_(seen, rest)]).T
  conditional_mean = mean[rest] + gain @ (x[seen] - mean[seen])
  return conditional_mean, cov[np.ix_(rest, rest)] - gain @ cov[np.ix_(seen, rest)]


def posterior(
  mean: ArrayLike, cov: ArrayLike, noisy: ArrayLike, noise_variance: ArrayLike
) -> tuple[Vector, Matrix]:
  """Returns the mean [D] and covariance [D, D] of x given noisy = x + independent noise.

  Args:
    mean: [D].
    cov: [D, D].
    noisy: [D].
    noise_variance: [], of every dimension, or [D].
  """
  _check(cov, mean=mean, noisy=noisy)
  mean, cov = _vector(mean), _matrix(cov)
  noise = np.asarray(noise_variance, np.float64)
  gain = _matrix(np.linalg.solve(cov + noise * np.eye(len(cov)), cov).T)
  return mean + gain @ (_vector(noisy) - mean), _matrix(noise * gain)


def _check(cov: ArrayLike, **vectors: ArrayLike) -> None:
  """Raises ValueError unless a covariance is [D, D] and each vector has D entries, in any shape."""
  shape = np.shape(cov)
  if len(shape) != 2 or shape[0] != shape[1]:
    raise ValueError(f'A covariance must be [D, D]; got shape {shape}.')
  for name, vector in vectors.items():
    if np.size(vector) != shape[0]:
      raise ValueError(f'{name} must have {shape[0]} entries, as the covariance; got {np.size(vector)}.')


def _vector(values: ArrayLike) -> Vector:
  return np.asarray(values, np.float64).ravel()


def _matrix(values: ArrayLike) -> Matrix:
  return np.asarray(values, np.float64)
