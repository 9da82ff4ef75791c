"""What a model loses without one of its parts: layers and neurons taken away while it reads and writes."""
