"""The operator's web page: rendered here, without a build step; it works without JavaScript."""
