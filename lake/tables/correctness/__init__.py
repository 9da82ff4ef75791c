"""Tables about right and wrong answers: labels, directions, detection."""
