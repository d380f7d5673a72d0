"""Routes, the plan of a call, and the records that calls and mismatches leave."""
