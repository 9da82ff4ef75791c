"""Numbers of a run for monitoring systems: Prometheus (file, endpoint, Pushgateway) and Datadog.

`metric` says what exists, `tally` counts it per segment in SQL, `reading` puts a run together; the rest deliver it.
"""
