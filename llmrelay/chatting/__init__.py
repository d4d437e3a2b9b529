"""What `llmrelay chat` is made of: a client of any front-end, and the terminal that it is used at.

answers.py asks over connection.py; conversation.py has a history and terminal.py what a person sees
of it; prompts.py reads what goes into a question. Knows of the front-end its URL and no more.
"""
