"""Devices and hosts: the mesh, how a step is mapped over it, the keys of images, and many processes."""
