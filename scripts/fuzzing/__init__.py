r"""The fuzzer: bytes that nobody thought of, against the HTTP side and its forms.

    corpus (tests/http/cases) -> atheris -> parser        the same events however they are split
                                        \-> connection    a Server on loopback, with short limits
    tests/runner_payload/forms -> atheris -> multipart    the same parts however they are split
    mutations of requests -> our parser, h11, llhttp      `compare`: one reading, or a reason

atheris (libFuzzer) mutates what reached new code. It ends its process when it is done, so each
target runs in a child; __main__ counts and says how to repeat what was found.
"""
