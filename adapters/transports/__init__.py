"""What carries requests to the gateway and messages to old services, besides HTTP for clients."""
