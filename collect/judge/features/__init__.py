"""A judge names features of autoencoders and is tested on the names."""
