"""What runs and trainings are doing now, as lines for a terminal."""
