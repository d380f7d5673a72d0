"""The pure middle: values, routes and rules; standard library only, no I/O, no asyncio."""
