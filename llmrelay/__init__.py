"""llmrelay: streams LLM answers over HTTP from runners that are reached by SSH."""

__version__ = "0.1.0"
