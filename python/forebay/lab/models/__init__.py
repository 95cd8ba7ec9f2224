"""Code of the models that the lab's Triton serves; copied into a repository, run by Triton's Python backend.

Owns what is computed. Must not import forebay: it runs in Triton's environment, which has numpy alone.
A wrong request is answered with an error for that request; the others of its batch go on.
"""
