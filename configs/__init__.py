"""Recipes: each file has `get_config(variant='')`, and its docstring says what the recipe reaches."""
