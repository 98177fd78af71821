"""A run: from a configuration to an experiment, and from a workdir back to a trained model."""
