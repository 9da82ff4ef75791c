"""Tables about samples beside each other: how far they spread, what steering does to them."""
