"""Hydra configuration of the verl recipe; a package so that `pkg://redraft.recipe.config` finds it."""
