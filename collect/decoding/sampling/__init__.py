"""How the next token is chosen and when a sequence ends: settings, the draw, stop rules."""
