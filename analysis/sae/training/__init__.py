"""Training sparse autoencoders: options, the rows that are read, the plan, learners, and the run that holds them."""
