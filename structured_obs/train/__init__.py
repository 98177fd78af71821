"""Training: the step, its mapping over devices, and the loop that survives being killed.

`run.run` is the whole of it. `experiment` builds everything from a configuration once, and restores
a trained model; `step` is one update as seen by one device; `parallel` maps it over devices and
hosts; `feed` brings the images; `loop` drives it; `checkpoint` alone knows the checkpoint format.
Import the modules by name: `from structured_obs.train import experiment`.
"""
