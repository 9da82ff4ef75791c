"""dictionary_learning: `config.json` and the arrays of `ae.pt`."""
