"""SQL over a lake: which statements and functions are let through, the views of the tables, files that only open."""
