"""The verb prepare."""
