"""What the verbs share about a terminal: streams, progress, how rows are shown, completion, how a command ends."""
