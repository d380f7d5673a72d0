"""Changes that services signal, published to clients."""
