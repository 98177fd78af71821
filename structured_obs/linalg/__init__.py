"""Structured linear algebra on plain arrays: jax only, one matrix per function."""
