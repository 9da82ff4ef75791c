"""What an experiment is asked to do, and the runs that belong to one: they are found again by its id."""
