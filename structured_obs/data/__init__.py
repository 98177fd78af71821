"""Real images, ingested once and read back in an order that is a pure function of the step.

`prepare.prepare(config)` turns a source of images into one memory-mapped uint8 array per split and
a record of how it was made; `pipeline` decides which images a step sees; `pixels` scales, dequantises
and augments images inside jit, and takes images of a model back to gray levels (`pixels.from_unit`).
Nothing here downloads anything unless the configuration says so.
"""
