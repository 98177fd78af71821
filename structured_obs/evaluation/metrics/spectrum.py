"""Log spectra of images, and differences between the spectra of two sets of images.

The spectrum of an image is log |F|, with F the orthonormal Fourier transform of a channel, averaged over
channels. Blurred images lack high frequencies; white noise is equally strong at all frequencies.

Letters: N images; H W C image height, width, channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
figure 6.
"""

import math
from typing import NamedTuple

import numpy as np

# Standard deviation that rounding to 8 bits adds to every frequency; keeps the logarithm finite.
ROUNDING = 2 / 255 / math.sqrt(12)


class Difference(NamedTuple):
  """Differences of log spectra per image, [N] each; their mean is the statistic of all images.

  The values are pseudo-values of the jackknife: the standard error of their mean is that of the
  statistic, and the standard error of the mean difference of two models is that of the difference.
  """

  signed: np.ndarray  # mean over the frequencies of found - true; below 0 for blurred images
  absolute: np.ndarray  # mean over the frequencies of |found - true|, each averaged over the images


def log_spectra(images: np.ndarray) -> np.ndarray:
  """Returns the log spectrum of each image: [N, H, W] float32, natural logarithm, frequency 0 first."""
  transform = np.fft.fft2(np.asarray(images, np.float64), axes=(1, 2), norm='ortho')
  power = np.square(transform.real) + np.square(transform.imag) + ROUNDING**2
  return (0.5 * np.log(power)).mean(axis=-1).astype(np.float32)


def difference(found: np.ndarray, true: np.ndarray) -> Difference:
  """Returns differences of the mean log spectra of two sets of images of equal size.

  One image that is not finite makes every `absolute` NaN, and its own `signed`.

  Args:
    found: [N, H, W], of `log_spectra`.
    true: [N, H, W], of the same images or others.
  """
  each = np.asarray(found, np.float64) - np.asarray(true, np.float64)
  count, mean = len(each), each.mean(axis=0)
  without = np.abs((count * mean - each) / max(count - 1, 1))  # means over all images but one
  statistic, left = np.mean(np.abs(mean)), without.mean(axis=(1, 2))
  # The pseudo-values without the correction of their mean's bias, so that it equals the statistic.
  pseudo = statistic + (count - 1) * (left.mean() - left)
  return Difference(each.mean(axis=(1, 2)), pseudo)
