"""sparsify: `cfg.json` and `sae.safetensors` in a folder named after a module."""
