"""Benchmarks: speed, accuracy, memory and endurance of the kernels beside their alternatives."""
