"""Programs that know OpenAI's API and not llmrelay, each with its own client library.

Each takes a base URL and a key, uses every feature that its library has, and prints a line for
each. tests/test_clients.py runs them against `llmrelay serve`, and says which lines have to come.
"""
