"""A judge behind an HTTP address: asked with patience, in parallel, within limits."""
