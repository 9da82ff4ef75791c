"""Tables about sparse autoencoders, their features, and features followed through the layers."""
