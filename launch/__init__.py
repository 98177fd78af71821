"""Command-line programs: `python -m launch.NAME --help` describes each one."""

import sys

if sys.argv[:1] == ['-m']:  # a program is about to be imported, which takes seconds
  from launch import interrupts

  interrupts.end_at_once()
