"""A method that migrates: modes at run time, shadow calls, statistics, rollouts."""
