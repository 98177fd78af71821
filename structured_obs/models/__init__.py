"""Networks (Flax Linen) that emit the parameters of a distribution family."""
