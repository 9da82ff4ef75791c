"""What a model says of stored sequences when it reads them again: lens, attribution, neurons, second-order effects."""
