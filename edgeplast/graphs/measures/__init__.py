"""What a graph costs: bytes alive, bytes held, operations."""
