"""The rules of the platform: pure values, states and plans. No I/O, no clock, no asyncio."""
