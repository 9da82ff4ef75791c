"""What neurons do to a direction of the final state through later heads, from one frozen pass."""
