"""The shapes of vLLM 0.33.0 that its plugins see, for where vLLM itself is not installed."""
