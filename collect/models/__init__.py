"""A language model as parts: loading it, its stacks, its sites, its cache. Nothing here decides what to run."""
