"""What predictions are worth: scores with intervals, curves, risk by coverage; knows arrays."""
