"""What a collection is told: the settings as pydantic models, what is kept, edits as typed. No torch."""
