"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`."""
