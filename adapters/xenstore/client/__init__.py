"""An asyncio client of xenstored."""
