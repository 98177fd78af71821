r"""SOS-VAE for CelebA at 64x64, gray: the data on which the paper compares it with SUPN.

  python -m launch.train --config=configs/sos_vae_celeba64_gray.py --workdir=runs/celeba64/sos_vae
  python -m launch.train --config=configs/sos_vae_celeba64_gray.py:beta_vae \
      --workdir=runs/celeba64/beta_vae
  python -m launch.evaluate --workdir=runs/celeba64/sos_vae \
      --compare=runs/celeba64/beta_vae,runs/celeba/vae

`runs/celeba/vae` is the model of configs/supn_celeba.py, with the same images if all are used
(--config.data.limit=0).

Put `img_align_celeba.zip` and `list_eval_partition.txt` into a folder and add
--config.data.options.manual_dir=FOLDER. Fetch them by hand from
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: --config.data.options.download does not work for
them, because they are on Google Drive.

| variant | p(x|z) | bounds |
|---|---|---|
| `sos_vae` | low rank, D = eps I | KL 45 nats, entropy eps I + 136.5 nats |
| `beta_vae` | independent pixels | KL 45 nats |
| `unconstrained` | low rank, D learnt | KL 45 nats |
| `equal` | as `sos_vae` | as `sos_vae`, held from both sides |

As in the paper: the bound on the entropy (-17630 nats for pixels in [0, 1], 136.5 above that of eps I,
5.46 a rank), the ResNet (21.5 million parameters) and everything else as in configs/sos_vae_celeba.py.
The paper gives neither its bound on the KL nor its epochs for these images: both are those of colour.

This recipe has not been trained to its end here. The paper's FIDs of samples: 74.66 (SOS-VAE), 77.72
(SUPN) and 257.11 (beta-VAE). configs/sos_vae_folder.py says what small networks reach.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, section 4.1, table 1 and figure 3.
"""

from structured_obs import config, recipes

VARIANTS = recipes.SOS_VAE


def get_config(variant: str = 'sos_vae') -> config.Config:
  """Returns a variant, 'sos_vae' by default: see the table above."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sos_vae_celeba64_gray.py')
  data = config.DataConfig(
    source='tfds:celeb_a', height=64, width=64, channels=1, limit=10000, flip=True
  )
  evaluation = config.EvalConfig(batch_size=25, importance_samples=100, chunk=5)
  return recipes.sos_vae_as_published(variant, data, entropy_bound=5.46, evaluation=evaluation)
