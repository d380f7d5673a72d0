"""Values of the admin service: stored records, views, counters, access rules, status."""
