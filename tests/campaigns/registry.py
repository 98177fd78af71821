"""The campaigns by name: one line each.

A campaign is a module with `run(count, seed) -> list[Result]`, and `COUNT`, how many attempts a long run
makes.
"""

from types import ModuleType

from tests.campaigns import inputs

CAMPAIGNS: dict[str, ModuleType] = {
  'inputs': inputs,
}
