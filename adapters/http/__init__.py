"""HTTP/1.1 for legacy clients, on httptools: sockets, messages and their limits. Knows no protocol above HTTP."""
