"""Many runs under one protocol: planned, run in processes of their own, summarised, and shown."""
