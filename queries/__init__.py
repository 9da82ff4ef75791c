"""Everything that presents rows: saved SQL, derived views, charts.

`saved_query` and `views` need DuckDB only; `chart` and `page` load Altair, so import them where they are used.
"""
