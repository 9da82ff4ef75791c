"""Other programs' records: read into a lake's tables, and written from them."""
