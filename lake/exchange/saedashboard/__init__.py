"""SAEDashboard: the `batch-N.json` that Neuronpedia imports, written from the tables of features."""
