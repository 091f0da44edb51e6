"""The institution: model, data, training and memory; the only side that knows torch.

Import the modules by name: nothing is re-exported here, so that `client.data` stays cheap to import.
"""
