"""Real images, stored once and read in an order that is a pure function of the step.

`prepare.prepare(config)` turns a source of images into one memory-mapped uint8 array per split, with a
record of how it was made. `pipeline` decides which images a step sees. `pixels` scales, dequantises and
augments images inside jit, and converts a model's images back to gray levels (`pixels.from_unit`).
Nothing is downloaded unless the configuration says so.
"""
