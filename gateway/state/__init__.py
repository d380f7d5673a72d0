"""What outlives the process: one SQLite file that several gateways of one host share."""
