"""The verbs of `lake analyze` and those that read a run's sequences again."""
