"""Exactly what runs on a runner's host; nothing else is shipped there.

Imports the standard library and `openai` alone, and runs on Python 3.10 and later whatever the
front-end runs on. Read in this order: bootstrap (the first bytes on the host), stdio, main (frames
to calls), upstream (calls to the OpenAI API), with protocol as what both sides share.
"""
