"""The operator's service on D-Bus: org.xen.xcp.gateway."""
