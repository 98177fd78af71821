"""Objectives: what is maximised, read from a model's `Terms` alone."""
