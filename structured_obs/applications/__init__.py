"""Uses of a trained model's distributions: edit, denoise, interpolate, super-resolve."""
