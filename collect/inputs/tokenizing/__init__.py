"""From text to tokens and back: chat templates, token texts, positions of characters."""
