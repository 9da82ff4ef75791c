"""Step records of token-step fingerprinting, read into a lake's tables and written from them."""
