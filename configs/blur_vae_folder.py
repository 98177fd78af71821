"""Blur-VAE for any folder, or zip file, of images, with the baselines of its tables; on a CPU.

  A="--config=configs/blur_vae_folder.py --config.data.source=folder:PATH --workdir=runs/blur"
  python -m launch.compare $A --variants=l2,l1,ssim,cross_entropy,focal_frequency,paper_loss,blur_vae
  python -m launch.compare $A --variants=gaussian_2,gaussian_4,epsilon_small,noise_0.005,noise_0.1
  python -m launch.kernels --workdir=runs/blur/paper_loss

The second command is the ablation of Table 1, whose other row is `paper_loss`.

| variant | what is minimised |
|---|---|
| `blur_vae` | -log p(x|z) of `regularised` blurred noise, |F|^2 + C with C = 0.2, a bound on log p(x) |
| `blur_vae_colour` | the same with a kernel for each of three rotated colour channels |
| `wiener`, `inverse_eps` | that of the other parametrisations |
| `paper_loss` | the paper's Wiener quadratic, C = 0.025, without log-determinant: no density |
| `epsilon_small` | the same, with log|K + 0.05 I|, which the latents learn to make small |
| `gaussian_2`, `gaussian_4` | the same with one Gaussian kernel of this variance for all images |
| `noise_0.005`, `noise_0.1` | `paper_loss` with this C |
| `l2` | -log p(x|z) of independent pixels of one variance, at its optimum |
| `l1`, `ssim`, `cross_entropy`, `focal_frequency` | this loss of the mean |
| `vgg`, `watson` | distances of features; they need files of weights |

All share the network, the number of steps and a bound on the KL, 150 nats, held by a multiplier. A
density with a small C spends its weight on frequencies that the mean does not reach; `paper_loss` gives
them none. C = 0.2 has the best reconstructions of validation images among 0.025, 0.05, 0.1, 0.2 and 0.4
on 32x32 faces, and a density 0.15 bits/dim worse than 0.025 (docs/blur_vae.md).

With --config.objective.kernel_gradient=latents, the latents learn from what their kernel G(z) does to
the loss, as in the paper's equation 11: the default of `paper_loss` and of the rows of Table 1 that have
a network of kernels. With `held` the kernel is a constant: the default of `blur_vae`, `blur_vae_colour`,
`wiener` and `inverse_eps`, since `blur_vae` had a better ELBO with it (docs/blur_vae.md). The kernel
network itself learns from an error of its own (`objectives.alternating`).

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023. The
network is a quarter to a half as wide as the paper's.
"""

from structured_obs import config, recipes


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Returns a variant, 'blur_vae' by default: see the table above."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_folder.py')
  base = config.Config(
    data=config.DataConfig(source='folder:', height=64, width=64, flip=True),
    model=config.ModelConfig(
      'vae', {'latents': 128, 'features': (32, 64, 128, 256), 'norm': 'batch', 'architecture': 'strided'}
    ),
    objective=config.ObjectiveConfig(beta=0.0, constraints={'kl': {'bound': 150.0}}),
    optim=config.OptimConfig(learning_rate=1e-3, schedule='cosine'),
    train=config.TrainConfig(
      steps=1500, batch_size=32, validate_every=500, checkpoint_every=150, keep=10
    ),
    eval=config.EvalConfig(batch_size=32, importance_samples=100, chunk=5),
  )
  return recipes.blur_vae(base, recipes.BlurVae(white_steps=150, kernel_learning_rate=1e-3), variant)
