"""How rows become a Parquet file: columns checked, buffered, sorted, encoded and hashed."""
