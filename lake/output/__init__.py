"""What leaves a lake for people and other programs: files replaced whole, text that a terminal may show, notices."""
