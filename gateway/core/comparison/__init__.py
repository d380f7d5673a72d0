"""Compare two outcomes by rules; redact secrets; write values as JSON."""
