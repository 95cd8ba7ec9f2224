"""The lab: simulated chat fleets, a real Triton with a real small model, questions, traffic and the demo.

Owns everything a trial needs that is not the gateway itself.
Must not know policy, gateway or control: it meets them only over sockets, as any client or upstream does.
On failure a trial ends with a message; nothing here decides about a request.
"""
