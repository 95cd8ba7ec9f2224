"""forebay: an inference gateway. Envoy carries the bytes, forebay makes the decisions.

Owns: the package's name and nothing else; import what you use from its subpackages.
Must not know: servers, policy files or Envoy; importing `forebay` starts nothing.
On failure: an import error, which ends the command.
"""
