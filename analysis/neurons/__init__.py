"""Statistics over the effects of neurons: rows in, rows out; no model runs here."""
