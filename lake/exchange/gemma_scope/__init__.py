"""Gemma Scope: `params.npz` in a folder whose path says layer, width and site."""
