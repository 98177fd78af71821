"""The campaigns by name: one line each.

A campaign is a module with `run(count, seed) -> list[Result]`, and `COUNT`, how many attempts a long run
makes; 0 stands for all that there are.
"""

from types import ModuleType

from tests.campaigns import damage, disk_full, hosts, inputs, kills, planted

CAMPAIGNS: dict[str, ModuleType] = {
  'inputs': inputs,
  'damage': damage,
  'disk_full': disk_full,
  'hosts': hosts,
  'kills': kills,
  'planted': planted,
}
