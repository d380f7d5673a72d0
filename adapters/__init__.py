"""What talks: transports, codecs, dialects and backends; each knows gateway.core and its own library."""
