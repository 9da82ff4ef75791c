"""What tells right from wrong answers after the fact: signals of stored tables, detectors, and what they are worth."""
