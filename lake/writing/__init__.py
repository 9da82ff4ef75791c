"""How a run is written: its writer, its segments, and rows that become a Parquet file."""
