"""Command-line programs: `python -m launch.NAME --help` says what each one does."""
