"""JSON reports of the CoreVital monitor, read into a lake's tables."""
