"""Documents to be read: sources, packing into contexts, and texts kept on disk while a run is planned."""
