"""Where in a model a state is read or written: names of sites, their places, the taps that read."""
