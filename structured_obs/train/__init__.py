"""Training: the step, its mapping over devices, and a loop that survives being killed.

`run.run` does all of it: `start` takes over parameters of another run, `feed` brings the images, `step`
is one update as seen by one device, `loop` drives the steps, and `resume` finds the checkpoint to
resume from. Import the modules by name: `from structured_obs.train import run`.
"""
