"""Recipes: each file gives `get_config(variant='')` and says what it claims."""
