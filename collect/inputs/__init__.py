"""What a model is given and what its answers are worth: prompts, tokens, texts, grades. No model runs here."""
