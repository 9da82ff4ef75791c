"""Changes of states in mid-pass: what an edit does, where its vectors come from, the hooks that write."""
