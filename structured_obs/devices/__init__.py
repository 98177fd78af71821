"""Devices and hosts: the mesh, the mapping of steps over it, keys of images, and many processes."""
