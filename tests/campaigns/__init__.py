"""Campaigns that try to break the project: kills, damage, full disks, hosts that differ, bad inputs.

`python -m tests.campaigns` runs them and prints its counts; docs/reliability.md has the last ones. A
campaign is one module and one line in `registry.CAMPAIGNS`.
"""
