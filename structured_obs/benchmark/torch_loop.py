"""A plain PyTorch training loop of the small VAE, with the same layers, sizes, optimizer and densities.

It is what a user would write instead of a recipe with the architecture 'mirror' and independent or
low-rank pixels: modules in the layout that PyTorch's convolutions like best, `torch.distributions` and
Adam.
"""

import copy
from collections.abc import Callable
from typing import Any

from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.models.networks import layers
from structured_obs.runs import configuration

FAMILIES = ('diagonal', 'low_rank')
NORMS = ('none', 'group')


def covers(config: Config) -> bool:
  """Returns whether there is such a loop for a recipe."""
  options = configuration.filled(config).model.options
  plain = (config.model.kind, options.get('architecture'), options.get('covariance')) == (
    'vae',
    'mirror',
    {},
  )
  return plain and config.likelihood.family in FAMILIES and options['norm'] in NORMS


def make(config: Config, image: ImageShape) -> Callable[[], float]:
  """Builds network and optimizer: a function that makes one step and returns its loss, nats per image.

  Raises:
    ImportError: PyTorch is not installed.
  """
  import torch  # pyright: ignore[reportMissingImports]

  torch.manual_seed(0)
  network = _network(torch, config, image)
  optimizer = torch.optim.Adam(network.parameters(), config.optim.learning_rate)
  levels = torch.randint(0, 256, (config.train.batch_size, image.channels, image.height, image.width))

  def step() -> float:
    x = (levels + torch.rand(levels.shape)) / 128 - 1
    x = x.contiguous(memory_format=torch.channels_last)
    mean, log_scale = network.encoder(x).chunk(2, dim=1)
    z = mean + torch.exp(log_scale) * torch.randn_like(mean)
    kl = 0.5 * (mean**2 + torch.exp(2 * log_scale) - 1 - 2 * log_scale).sum(1)
    flat = x.permute(0, 2, 3, 1).flatten(1)
    loss = (kl - network.density(z, flat)).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm or 1e9)
    optimizer.step()
    return loss.item()

  return step


def _network(torch: Any, config: Config, image: ImageShape) -> Any:
  """Returns a module with `encoder` (images -> 2 Z) and `density` (latents, pixels -> log p(x|z))."""
  nn, options = torch.nn, configuration.filled(config).model.options
  features, rank = options['features'], config.likelihood.options.get('rank', 0)
  sizes = layers.resolutions(image, len(features))

  def norm(width: int) -> Any:
    return nn.Identity() if options['norm'] == 'none' else nn.GroupNorm(max(1, width // 8), width)

  class Residual(nn.Module):
    def __init__(self, width: int) -> None:
      super().__init__()
      half = [norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
      self.inner = nn.Sequential(*half, *copy.deepcopy(half))

    def forward(self, x: Any) -> Any:
      return x + self.inner(x)

  def blocks(width: int) -> list[Any]:
    return [Residual(width) for _ in range(options['blocks'])]

  (height, width), last, before, encoder = sizes[-1], features[-1], image.channels, []
  for level, count in enumerate(features):
    encoder += [nn.Conv2d(before, count, 3, stride=1 if level == 0 else 2, padding=1), *blocks(count)]
    before = count
  size = height * width * last
  encoder += [nn.SiLU(), nn.Flatten(), nn.Linear(size, 4 * last), nn.SiLU()]
  decoder = [nn.Linear(options['latents'], 4 * last), nn.SiLU(), nn.Linear(4 * last, size)]
  decoder += [nn.Unflatten(1, (last, height, width)), *blocks(last)]
  for count, shape in zip(features[-2::-1], sizes[-2::-1], strict=True):
    decoder += [nn.Upsample(size=shape), nn.Conv2d(before, count, 3, padding=1), *blocks(count)]
    before = count
  decoder += [nn.SiLU(), nn.GroupNorm(1, before), nn.Conv2d(before, image.channels * (2 + rank), 1)]

  class Network(nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.encoder = nn.Sequential(*encoder, nn.Linear(4 * last, 2 * options['latents']))
      self.decoder = nn.Sequential(*decoder)

    def density(self, z: Any, x: Any) -> Any:
      outputs = self.decoder(z).permute(0, 2, 3, 1)
      mean, diag, *factor = outputs.split(image.channels, dim=-1)
      mean, diag = mean.flatten(1), nn.functional.softplus(diag.flatten(1)) + 1e-2
      if not factor:
        return torch.distributions.Normal(mean, diag).log_prob(x).sum(1)
      columns = torch.stack([column.flatten(1) for column in factor], dim=-1)
      normal = torch.distributions.LowRankMultivariateNormal(mean, columns, diag, validate_args=False)
      return normal.log_prob(x)

  return Network().to(memory_format=torch.channels_last)
