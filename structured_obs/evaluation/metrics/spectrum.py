"""Log spectra of images, and how far those of one set are from those of another.

The spectrum of an image is log |F|, F the orthonormal Fourier transform of a channel, averaged over the
channels. Blurred images lack high frequencies, and white noise is as strong at all of them.

Letters: N images; H W C image height, width, channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
figure 6.
"""

import math
from typing import NamedTuple

import numpy as np

# Standard deviation of what rounding to 8 bits adds to every frequency: keeps the logarithm of none.
ROUNDING = 2 / 255 / math.sqrt(12)


class Difference(NamedTuple):
  """How log spectra differ, by the image, [N] each: their mean is the statistic of all images.

  The values are pseudo-values of the jackknife: the standard error of their mean is that of the
  statistic, and the standard error of the mean of two models' differences is that of the difference.
  """

  signed: np.ndarray  # mean over the frequencies of found - true; below 0 is blurred
  absolute: np.ndarray  # mean over the frequencies of |found - true|, each averaged over the images


def log_spectra(images: np.ndarray) -> np.ndarray:
  """Log spectrum of each image [N, H, W, C]: [N, H, W] float32, natural, frequency 0 at [0, 0]."""
  transform = np.fft.fft2(np.asarray(images, np.float64), axes=(1, 2), norm='ortho')
  power = np.square(transform.real) + np.square(transform.imag) + ROUNDING**2
  return (0.5 * np.log(power)).mean(axis=-1).astype(np.float32)


def difference(found: np.ndarray, true: np.ndarray) -> Difference:
  """Returns differences of the mean log spectra of two sets of images of equal size.

  One image that is not finite makes every `absolute` NaN, and its own `signed`.

  Args:
    found: [N, H, W], of `log_spectra`.
    true: [N, H, W], of the same images or of other ones.
  """
  each = np.asarray(found, np.float64) - np.asarray(true, np.float64)
  count, mean = len(each), each.mean(axis=0)
  without = np.abs((count * mean - each) / max(count - 1, 1))  # means over all images but one
  statistic, left = np.mean(np.abs(mean)), without.mean(axis=(1, 2))
  # The pseudo-values, without their mean's correction of the bias: it shall be the statistic.
  pseudo = statistic + (count - 1) * (left.mean() - left)
  return Difference(each.mean(axis=(1, 2)), pseudo)
