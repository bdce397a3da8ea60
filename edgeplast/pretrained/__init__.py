"""Pretrained weights: a checkpoint of a usual origin goes in, a filled model comes out.

files (what a file holds) → layouts (timm's names for it) → fitting (into the model, whole or not at all);
configuration (the JSON beside the weights: mean, deviation, crop, interpolation)
"""
